"""Regenerates reference.json, the outputs of torchvision's and timm's networks.

The weights are those of tests/models.rs.

    pip install torch torchvision timm numpy && python reference.py > reference.json
"""

import json

import numpy
import timm
import torch
import torchvision

CLASSES, ROWS, MASK = 10, 2, 0xFFFFFFFF


def hashed(name, count):
    """Values in -0.5..0.5 that depend on the name.

    FNV-1a of its bytes, then Murmur's finalizer of each index.
    """
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 & MASK
    x = (numpy.arange(count, dtype=numpy.uint64) * 0x9E3779B1 + seed) & MASK
    for shift, factor in [(16, 0x85EBCA6B), (13, 0xC2B2AE35)]:
        x = ((x ^ (x >> shift)) * factor) & MASK
    return (x ^ (x >> 16)).astype(numpy.float64) / 2**32 - 0.5


def value(name, shape):
    values = hashed(name, int(numpy.prod(shape)))
    if len(shape) >= 2:
        values = values * (24.0 / numpy.prod(shape[1:])) ** 0.5
    elif name.endswith("running_var"):
        values = 1.0 + values
    elif name.endswith("weight"):
        values = 1.0 + 0.4 * values
    else:
        values = 0.4 * values
    return torch.from_numpy(values.astype(numpy.float32)).reshape(shape)


def resnet(build, small=False, width=64):
    network = build(num_classes=CLASSES)
    if small:
        network.conv1 = torch.nn.Conv2d(3, width, 3, 1, 1, bias=False)
        network.maxpool = torch.nn.Identity()
    return network


NETWORKS = {
    "resnet18": (lambda: resnet(torchvision.models.resnet18), 64),
    "resnet18 small": (lambda: resnet(torchvision.models.resnet18, small=True), 32),
    "resnet50": (lambda: resnet(torchvision.models.resnet50), 64),
    "resnet50 small": (lambda: resnet(torchvision.models.resnet50, small=True), 32),
    "ghostnet": (lambda: timm.create_model("ghostnet_050", num_classes=CLASSES, drop_rate=0.0), 64),
}

torch.set_num_threads(1)
answers = {}
for name, (build, side) in NETWORKS.items():
    network = build()
    state = network.state_dict()
    for key, tensor in state.items():
        if not key.endswith("num_batches_tracked"):
            state[key] = value(key, tuple(tensor.shape))
    network.load_state_dict(state)
    images = value("images", (ROWS, 3, side, side)) * (3 * side * side / 24.0) ** 0.5 * 3.0
    with torch.no_grad():
        inference = network.eval()(images)
        training = network.train()(images)
    norm = network.bn1
    answers[name] = {
        "parameters": sum(tensor.numel() for key, tensor in state.items() if not key.endswith("num_batches_tracked")),
        "inference": inference.flatten().tolist(),
        "training": training.flatten().tolist(),
        "running_mean": norm.running_mean[:4].tolist(),
    }
print(json.dumps(answers, indent=1))
