//! Reads the structure of a JPEG before it is decoded, to detect truncated files.
//!
//! Decoders fill in missing data: if the entropy-coded data of a scan end before its last block,
//! they continue with zeros. A [`Survey`] detects most truncations without decoding. In a file that
//! ends before its last scan, a part of the image is in no scan. For a file that ends within its
//! last scan, the survey prepares a copy that no decoder accepts: one bits follow the data of the
//! scan. No Huffman code consists of one bits only (ITU-T T.81, annex C). A decoder that reads past
//! the end of the data fails, and a decoder that does not read past it is not affected.
//!
//! One kind of truncation is not detected: the loss of the last bits of a progressive image, if
//! these bits refine coefficients and therefore have no code. A few coefficients are then wrong in
//! their lowest bit.

use memchr::memchr;

/// Number of bytes of one bits after a scan: more than a decoder prefetches, and more than the rest
/// of a Huffman code, its extra bits, and the next code.
const GUARD: usize = 16;
/// Number of coefficients of a block.
const COEFFICIENTS: usize = 64;
/// Side of a block in pixels.
const BLOCK: usize = 8;
/// Maximum number of components of a scan, and of any decoder here.
const MAX_COMPONENTS: usize = 4;
/// Marks a coefficient that no scan contains.
const UNKNOWN: u8 = u8::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Coding {
    /// Baseline, or extended sequential, with Huffman codes.
    #[default]
    Sequential,
    /// Progressive with Huffman codes.
    Progressive,
    /// Lossless, hierarchical or arithmetic. Not surveyed.
    Other,
}

/// A component of the frame: a color, luma or chroma.
#[derive(Debug)]
struct Component {
    id: u8,
    /// Sampling factors, 1 to 4.
    horizontal: usize,
    vertical: usize,
    /// The number of missing low bits of every coefficient.
    missing: [u8; COEFFICIENTS],
}

/// The structure of a JPEG.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) width: usize,
    pub(super) height: usize,
    coding: Coding,
    components: Vec<Component>,
    scans: usize,
    /// The end of the entropy-coded data of the last scan, and the number of bytes of one bits to
    /// insert there.
    guard: (usize, usize),
    /// The offset after the first end marker.
    end: usize,
}

impl Survey {
    /// Reads the structure of a JPEG.
    ///
    /// # Errors
    ///
    /// The reason as text: the file, a scan or a segment ends too early, scans are missing, or
    /// segments contradict each other.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, String> {
        let mut survey = Self::default();
        let mut restart_interval = 0;
        let mut reader = Reader { bytes, at: 2 };
        loop {
            match reader.marker()? {
                0xd9 => break,
                0xc4 | 0xc8 | 0xcc => drop(reader.segment()?),
                code @ 0xc0..=0xcf => survey.frame(code, reader.segment()?)?,
                0xdd => {
                    let interval =
                        reader.segment()?.first_chunk().ok_or("its restart interval is cut")?;
                    restart_interval = usize::from(u16::from_be_bytes(*interval));
                }
                0xda => {
                    let header = reader.segment()?;
                    let data = reader.entropy_coded()?;
                    survey.scan(header, restart_interval, &data)?;
                }
                // Markers without a segment.
                0x01 | 0xd0..=0xd8 => {}
                _ => drop(reader.segment()?),
            }
        }
        survey.end = reader.at;
        let complete = |component: &Component| component.missing.iter().all(|&bits| bits == 0);
        if survey.components.is_empty() || survey.scans == 0 {
            return Err("it has no image".into());
        }
        if survey.coding != Coding::Other && !survey.components.iter().all(complete) {
            return Err("it ends too early: scans are missing".into());
        }
        Ok(survey)
    }

    fn frame(&mut self, code: u8, header: &[u8]) -> Result<(), String> {
        if !self.components.is_empty() {
            return Err("it has two frames".into());
        }
        let &[_precision, high, low, wide, narrow, count, ref components @ ..] = header else {
            return Err("its frame header is cut".into());
        };
        if components.len() != 3 * usize::from(count)
            || !(1..=MAX_COMPONENTS).contains(&usize::from(count))
        {
            return Err(format!(
                "its frame header has {} bytes for {count} components",
                components.len()
            ));
        }
        self.coding = match code {
            0xc0 | 0xc1 => Coding::Sequential,
            0xc2 => Coding::Progressive,
            _ => Coding::Other,
        };
        (self.height, self.width) = (
            usize::from(u16::from_be_bytes([high, low])),
            usize::from(u16::from_be_bytes([wide, narrow])),
        );
        for component in components.chunks_exact(3) {
            let (horizontal, vertical) =
                (usize::from(component[1] >> 4), usize::from(component[1] & 15));
            if !(1..=4).contains(&horizontal) || !(1..=4).contains(&vertical) {
                return Err(format!(
                    "a component has the sampling factors {horizontal}×{vertical}"
                ));
            }
            self.components.push(Component {
                id: component[0],
                horizontal,
                vertical,
                missing: [UNKNOWN; COEFFICIENTS],
            });
        }
        Ok(())
    }

    /// The largest sampling factors.
    fn largest(&self) -> (usize, usize) {
        let largest =
            |factor: fn(&Component) -> usize| self.components.iter().map(factor).max().unwrap_or(1);
        (largest(|component| component.horizontal), largest(|component| component.vertical))
    }

    /// Records a scan.
    fn scan(
        &mut self,
        header: &[u8],
        restart_interval: usize,
        data: &EntropyCoded,
    ) -> Result<(), String> {
        let cut = || "its scan header is cut".to_owned();
        let (&count, rest) = header.split_first().ok_or_else(cut)?;
        let (named, &[first, last, bits]) = rest.split_last_chunk().ok_or_else(cut)?;
        if named.len() != 2 * usize::from(count) || count == 0 {
            return Err(cut());
        }
        let (refined, missing) = (bits >> 4, bits & 15);
        let refines = refined > 0 && self.coding == Coding::Progressive;
        let (h_max, v_max) = self.largest();
        let (mut mcus, mut blocks) =
            (self.width.div_ceil(BLOCK * h_max) * self.height.div_ceil(BLOCK * v_max), 0);
        let range = match self.coding {
            Coding::Progressive => usize::from(first)..=usize::from(last),
            _ => 0..=COEFFICIENTS - 1,
        };
        for name in named.chunks_exact(2) {
            let component = self.components.iter_mut().find(|component| component.id == name[0]);
            let component = component.ok_or_else(|| {
                format!("a scan has the component {}, which the frame lacks", name[0])
            })?;
            if count == 1 {
                // A single component has no padding blocks.
                let along = |pixels: usize, factor: usize, largest: usize| {
                    (pixels * factor).div_ceil(BLOCK * largest)
                };
                mcus = along(self.width, component.horizontal, h_max)
                    * along(self.height, component.vertical, v_max);
                blocks = mcus;
            } else {
                blocks += mcus * component.horizontal * component.vertical;
            }
            let coefficients = component
                .missing
                .get_mut(range.clone())
                .ok_or("a scan has coefficients that a block lacks")?;
            if self.coding == Coding::Sequential && coefficients[0] != UNKNOWN {
                return Err(format!("the component {} is in two scans", component.id));
            }
            coefficients.fill(if self.coding == Coding::Progressive { missing } else { 0 });
        }
        let mut guard = GUARD;
        if self.coding != Coding::Other {
            // A block of a sequential scan has at least two codes of one bit. A block of a
            // progressive scan with coefficient 0 has at least one bit.
            let least = match (self.coding, *range.start()) {
                (Coding::Sequential, _) => 2 * blocks,
                (_, 0) => blocks,
                _ => 0,
            };
            if data.bytes.saturating_mul(8) < least {
                return Err(format!(
                    "it ends too early: a scan has {} bytes for {blocks} blocks",
                    data.bytes
                ));
            }
            let intervals =
                mcus.checked_div(restart_interval).map_or(1, |_| mcus.div_ceil(restart_interval));
            if data.restarts + 1 < intervals {
                return Err(format!(
                    "it ends too early: a scan has {} of {intervals} restart intervals",
                    data.restarts + 1
                ));
            }
            // Refinements are bits without a code, up to one per coefficient of a run of blocks.
            if refines && *range.start() > 0 {
                guard += blocks.min(if restart_interval > 0 { restart_interval } else { blocks })
                    * COEFFICIENTS
                    / 8;
            }
        }
        self.scans += 1;
        self.guard = (data.end, guard);
        Ok(())
    }

    /// Whether `zune-jpeg` 0.5 decodes the image correctly. It does not, and returns no error, for
    /// sequential images with several scans and images whose chroma is sampled finer than luma.
    pub(super) fn is_usual(&self) -> bool {
        let (h_max, v_max) = self.largest();
        let powers = |component: &Component| {
            component.horizontal.is_power_of_two() && component.vertical.is_power_of_two()
        };
        let sampled = self.components.iter().all(powers);
        let luma_is_finest = self
            .components
            .first()
            .is_some_and(|luma| (luma.horizontal, luma.vertical) == (h_max, v_max));
        self.components.len() == 1
            || (sampled && luma_is_finest && (self.coding != Coding::Sequential || self.scans == 1))
    }

    /// Whether `jpeg-decoder` 0.3 decodes the image correctly. It scales a component by the largest
    /// factor or not at all.
    pub(super) fn is_scaled_plainly(&self) -> bool {
        let (h_max, v_max) = self.largest();
        self.components.len() == 3
            && self.components.iter().all(|component| {
                [1, h_max].contains(&component.horizontal)
                    && [1, v_max].contains(&component.vertical)
            })
    }

    /// Copies the image up to its end marker, with one bits after the data of the last scan.
    /// `bytes` are the surveyed bytes.
    pub(super) fn guarded(&self, bytes: &[u8], copy: &mut Vec<u8>) {
        let (data, rest) = bytes[..self.end].split_at(self.guard.0);
        copy.clear();
        copy.extend_from_slice(data);
        if self.coding != Coding::Other {
            copy.extend(std::iter::repeat_n([0xff, 0], self.guard.1).flatten());
        }
        copy.extend_from_slice(rest);
    }
}

/// The entropy-coded data of a scan.
struct EntropyCoded {
    /// The end offset in the file.
    end: usize,
    /// The number of bytes, without stuffing and markers.
    bytes: usize,
    /// The number of restart markers.
    restarts: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Finds the next run of `0xff` bytes. Returns the number of bytes before it, and the byte
    /// after it.
    fn code(&mut self) -> Result<(usize, u8), String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let before = memchr(0xff, rest).unwrap_or(rest.len());
        let (length, &code) = (before..)
            .zip(&rest[before..])
            .find(|(_, byte)| **byte != 0xff)
            .ok_or("it ends too early: it has no end marker")?;
        self.at += length + 1;
        Ok((before, code))
    }

    /// Skips to the next marker and returns its code.
    fn marker(&mut self) -> Result<u8, String> {
        loop {
            let (_, code) = self.code()?;
            if code != 0 {
                return Ok(code);
            }
        }
    }

    /// Reads the content of a segment.
    fn segment(&mut self) -> Result<&'a [u8], String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)));
        let content = length
            .and_then(|length| rest.get(2..length))
            .ok_or("it ends too early: a segment is cut")?;
        self.at += 2 + content.len();
        Ok(content)
    }

    /// Reads entropy-coded data up to the next marker that is not a restart marker.
    fn entropy_coded(&mut self) -> Result<EntropyCoded, String> {
        let mut data = EntropyCoded { end: self.at, bytes: 0, restarts: 0 };
        loop {
            let start = self.at;
            let (before, code) = self.code()?;
            data.bytes += before;
            match code {
                0 => data.bytes += 1,
                0xd0..=0xd7 => data.restarts += 1,
                _ => {
                    data.end = start + before;
                    self.at = data.end;
                    return Ok(data);
                }
            }
        }
    }
}
