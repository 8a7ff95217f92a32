//! A small JPEG encoder for structures that other encoders do not write: any sampling, several
//! scans, restart intervals, and progressive images with refinements.

use std::f64::consts::PI;

/// The structure of a JPEG.
#[derive(Debug, Clone)]
pub struct Jpeg {
    /// Width and height in pixels.
    pub side: usize,
    /// Sampling factors of each component, horizontal and vertical: 1 (gray), 3 or 4.
    pub sampling: Vec<(usize, usize)>,
    /// The components of each scan. Ignored by progressive images.
    pub scans: Vec<Vec<usize>>,
    /// The number of MCUs between two restart markers; 0 for none.
    pub restart: usize,
    pub progressive: bool,
}

/// A pixel of the image, which has smooth waves.
pub fn pixel(x: f64, y: f64) -> [f64; 3] {
    let wave = |x: f64, y: f64, scale: f64| 128.0 + 90.0 * (x / scale).sin() * (y / scale).cos();
    [wave(x, y, 17.0), wave(y, x, 23.0), wave(x, y, 41.0)]
}

/// The value of a component: luma, blue, red, or no black.
fn value(component: usize, gray: bool, x: f64, y: f64) -> f64 {
    let [r, g, b] = pixel(x, y);
    match component {
        0 if gray => r,
        0 => 0.299 * r + 0.587 * g + 0.114 * b,
        1 => 128.0 - 0.168_736 * r - 0.331_264 * g + 0.5 * b,
        2 => 128.0 + 0.5 * r - 0.418_688 * g - 0.081_312 * b,
        _ => 255.0,
    }
}

const QUANTUM: f64 = 4.0;
/// The end of a block, and sixteen zeros.
const END: u8 = 0;
const ZEROS: u8 = 0xf0;

const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The symbols of coefficients, all of the same length, so that no code consists of one bits only.
fn symbols() -> Vec<u8> {
    let sizes = (0..16u8).flat_map(|run| (1..=10u8).map(move |size| run << 4 | size));
    [END, ZEROS].into_iter().chain(sizes).collect()
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            self.held = self.held << 1 | (value >> bit & 1);
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.held as u8);
                if self.held == 0xff {
                    self.bytes.push(0);
                }
                (self.held, self.count) = (0, 0);
            }
        }
    }

    /// Writes a number of `size` bits after a symbol with this size.
    fn number(&mut self, value: i32, size: u32) {
        self.push((if value < 0 { value - 1 } else { value }) as u32 & ((1 << size) - 1), size);
    }

    fn mean(&mut self, difference: i32) {
        let size = 32 - difference.unsigned_abs().leading_zeros();
        self.push(size, 4);
        self.number(difference, size);
    }

    fn rest(&mut self, symbols: &[u8], coefficients: &[i32]) {
        let code = |symbol: u8| symbols.iter().position(|&other| other == symbol).unwrap() as u32;
        let mut run = 0;
        for &coefficient in coefficients {
            if coefficient == 0 {
                run += 1;
                continue;
            }
            while run > 15 {
                self.push(code(ZEROS), 8);
                run -= 16;
            }
            let size = 32 - coefficient.unsigned_abs().leading_zeros();
            self.push(code(run << 4 | size as u8), 8);
            self.number(coefficient, size);
            run = 0;
        }
        if run > 0 {
            self.push(code(END), 8);
        }
    }

    fn fill(&mut self) {
        while self.count > 0 {
            self.push(1, 1);
        }
    }
}

#[derive(Clone, Copy)]
enum Content {
    All,
    Means,
    Rest,
    Refinement,
}

impl Jpeg {
    fn largest(&self) -> (usize, usize) {
        (
            self.sampling.iter().map(|s| s.0).max().unwrap(),
            self.sampling.iter().map(|s| s.1).max().unwrap(),
        )
    }

    /// The coefficients of a block in zigzag order.
    fn block(&self, component: usize, column: usize, row: usize) -> [i32; 64] {
        let ((h, v), (h_max, v_max)) = (self.sampling[component], self.largest());
        let gray = self.sampling.len() == 1;
        let at = |sample: usize, largest: usize, factor: usize| {
            (sample as f64 + 0.5) * largest as f64 / factor as f64 - 0.5
        };
        let samples: [f64; 64] = std::array::from_fn(|i| {
            value(component, gray, at(8 * column + i % 8, h_max, h), at(8 * row + i / 8, v_max, v))
                - 128.0
        });
        let scale = |frequency: usize| if frequency == 0 { 0.5f64.sqrt() } else { 1.0 };
        let cosines: [f64; 64] =
            std::array::from_fn(|i| ((2 * (i / 8) + 1) as f64 * (i % 8) as f64 * PI / 16.0).cos());
        let cosine = |place: usize, frequency: usize| cosines[8 * place + frequency];
        ZIGZAG.map(|place| {
            let (u, v) = (place % 8, place / 8);
            let sum: f64 = samples
                .iter()
                .enumerate()
                .map(|(i, sample)| sample * cosine(i % 8, u) * cosine(i / 8, v))
                .sum();
            (sum * scale(u) * scale(v) / 4.0 / QUANTUM).round() as i32
        })
    }

    /// The MCUs of a scan, each as the blocks of its components.
    fn mcus(&self, components: &[usize]) -> Vec<Vec<(usize, usize, usize)>> {
        let (h_max, v_max) = self.largest();
        if let [component] = *components {
            let (h, v) = self.sampling[component];
            let (across, down) =
                ((self.side * h).div_ceil(8 * h_max), (self.side * v).div_ceil(8 * v_max));
            return (0..across * down)
                .map(|block| vec![(component, block % across, block / across)])
                .collect();
        }
        let (across, down) = (self.side.div_ceil(8 * h_max), self.side.div_ceil(8 * v_max));
        let of = |mcu: usize| {
            let (x, y) = (mcu % across, mcu / across);
            let blocks = components.iter().flat_map(move |&component| {
                let (h, v) = self.sampling[component];
                (0..h * v).map(move |block| (component, x * h + block % h, y * v + block / h))
            });
            blocks.collect()
        };
        (0..across * down).map(of).collect()
    }

    fn scan(&self, file: &mut Vec<u8>, components: &[usize], content: Content) {
        let [first, last, bits] = match content {
            Content::All => [0, 63, 0],
            Content::Means => [0, 0, 1],
            Content::Rest => [1, 63, 0],
            Content::Refinement => [0, 0, 0x10],
        };
        let names = components.iter().flat_map(|&component| [component as u8 + 1, 0]);
        let header: Vec<u8> =
            [components.len() as u8].into_iter().chain(names).chain([first, last, bits]).collect();
        segment(file, 0xda, &header);
        let symbols = symbols();
        let mut before = [0; 4];
        let mut data = Bits::default();
        for (number, mcu) in self.mcus(components).into_iter().enumerate() {
            if self.restart > 0 && number > 0 && number % self.restart == 0 {
                data.fill();
                data.bytes.extend([0xff, 0xd0 + ((number / self.restart - 1) % 8) as u8]);
                before = [0; 4];
            }
            for (component, column, row) in mcu {
                let block = self.block(component, column, row);
                let mut mean = |mean: i32| mean - std::mem::replace(&mut before[component], mean);
                match content {
                    Content::All => {
                        data.mean(mean(block[0]));
                        data.rest(&symbols, &block[1..]);
                    }
                    Content::Means => data.mean(mean(block[0] >> 1)),
                    Content::Rest => data.rest(&symbols, &block[1..]),
                    Content::Refinement => data.push(block[0] as u32 & 1, 1),
                }
            }
        }
        data.fill();
        file.append(&mut data.bytes);
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut file = vec![0xff, 0xd8];
        let all: Vec<usize> = (0..self.sampling.len()).collect();
        segment(&mut file, 0xdb, &[&[0][..], &[QUANTUM as u8; 64]].concat());
        let factors = self
            .sampling
            .iter()
            .enumerate()
            .flat_map(|(component, (h, v))| [component as u8 + 1, (h << 4 | v) as u8, 0]);
        let side = (self.side as u16).to_be_bytes();
        let frame = [8, side[0], side[1], side[0], side[1], all.len() as u8]
            .into_iter()
            .chain(factors)
            .collect::<Vec<u8>>();
        segment(&mut file, if self.progressive { 0xc2 } else { 0xc0 }, &frame);
        let table = |class: u8, length: usize, symbols: &[u8]| {
            let counts = (1..=16).map(|bits| if bits == length { symbols.len() as u8 } else { 0 });
            [class].into_iter().chain(counts).chain(symbols.iter().copied()).collect::<Vec<u8>>()
        };
        segment(&mut file, 0xc4, &table(0, 4, &(0..12).collect::<Vec<u8>>()));
        segment(&mut file, 0xc4, &table(0x10, 8, &symbols()));
        segment(&mut file, 0xdd, &(self.restart as u16).to_be_bytes());
        if self.progressive {
            self.scan(&mut file, &all, Content::Means);
            all.iter().for_each(|&component| self.scan(&mut file, &[component], Content::Rest));
            self.scan(&mut file, &all, Content::Refinement);
        } else {
            self.scans.iter().for_each(|components| self.scan(&mut file, components, Content::All));
        }
        file.extend([0xff, 0xd9]);
        file
    }
}

fn segment(file: &mut Vec<u8>, code: u8, content: &[u8]) {
    file.extend([0xff, code]);
    file.extend((content.len() as u16 + 2).to_be_bytes());
    file.extend_from_slice(content);
}
