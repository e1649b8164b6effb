//! CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their binary format: records of one label byte (CIFAR-100: a coarse and a
//! fine one) and 3 x 32 x 32 pixel bytes, channel by channel. Pixels are scaled to [0, 1].

use std::path::Path;

use tch::Device;

use super::bytes::Bytes;
use super::mnist::HELD_OUT;
use super::{Dataset, Splits};
use crate::error::{Error, Result};
use crate::file;

const PIXELS: usize = 3 * 32 * 32;

/// Reads CIFAR-10 from `folder/cifar-10-batches-bin`, or `folder` itself, on the device: 45,000 images to train on, 5,000
/// held out (the same ones each time), 10,000 to test on.
///
/// # Errors
/// A missing, truncated or altered file.
///
/// ```no_run
/// use stemm::prelude::*;
/// let data = cifar10("data", device())?.normalised(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225])?;
/// let data = data.augmented(Augmentation::CIFAR)?;
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn cifar10(folder: impl AsRef<Path>, device: impl Into<Device>) -> Result<Splits> {
    CIFAR10.read(folder.as_ref(), device.into())
}

/// Reads CIFAR-100 with its 100 fine labels from `folder/cifar-100-binary`, split as [`cifar10`] is.
///
/// # Errors
/// A missing, truncated or altered file.
pub fn cifar100(folder: impl AsRef<Path>, device: impl Into<Device>) -> Result<Splits> {
    CIFAR100.read(folder.as_ref(), device.into())
}

/// Reads files in CIFAR's binary format: `label_bytes` bytes before each image, of which the last is the label.
///
/// # Errors
/// A missing or truncated file, a label outside `0..classes`.
pub fn read_cifar<P: AsRef<Path>>(
    name: &str,
    files: &[P],
    label_bytes: usize,
    classes: i64,
    device: impl Into<Device>,
) -> Result<Dataset> {
    let contents = files.iter().map(|path| Ok((path.as_ref(), read(path.as_ref())?))).collect::<Result<Vec<_>>>()?;
    bytes(name, &contents, label_bytes, classes, device.into())?.dataset()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let hint = "run `make cifar`, or name the folder that holds the files";
    file::read(path, hint)
}

fn bytes(name: &str, files: &[(&Path, Vec<u8>)], label_bytes: usize, classes: i64, device: Device) -> Result<Bytes> {
    let record = label_bytes.max(1) + PIXELS;
    let (mut labels, mut pixels) = (Vec::new(), Vec::new());
    for (path, bytes) in files {
        if bytes.len() % record != 0 {
            let reason = format!("its {} bytes are not a whole number of records of {record} bytes", bytes.len());
            let hint = "move it away and run `make cifar`, or give whole files in CIFAR's binary format";
            return Err(Error::Corrupt { path: (*path).into(), format: "CIFAR binary", reason, hint });
        }
        for one in bytes.chunks_exact(record) {
            labels.push(one[record - PIXELS - 1]);
            pixels.extend_from_slice(&one[record - PIXELS..]);
        }
    }
    let labels: Vec<i64> = labels.into_iter().map(i64::from).collect();
    Bytes::new(name, &pixels, [3, 32, 32], &labels, classes, device)
}

/// A published set: folder, format, and the SHA-256 of its files.
struct Published {
    name: &'static str,
    folder: &'static str,
    label_bytes: usize,
    classes: i64,
    train: &'static [(&'static str, &'static str)],
    test: &'static [(&'static str, &'static str)],
}

impl Published {
    fn read(&self, folder: &Path, device: Device) -> Result<Splits> {
        let below = folder.join(self.folder);
        let folder = if below.exists() || !folder.join(self.train[0].0).exists() { &below } else { folder };
        let part = |part: &str, files: &[(&str, &str)]| -> Result<Bytes> {
            let paths: Vec<_> = files.iter().map(|(file, _)| folder.join(file)).collect();
            let mut contents = Vec::new();
            for (path, (_, expected)) in paths.iter().zip(files) {
                let bytes = read(path)?;
                let found = file::sha256(&bytes);
                if found != *expected {
                    let (path, expected) = (path.clone(), (*expected).into());
                    return Err(Error::Checksum { path, expected, found, command: "make cifar" });
                }
                contents.push((path.as_path(), bytes));
            }
            bytes(&format!("{} {part}", self.name), &contents, self.label_bytes, self.classes, device)
        };
        Splits::of_bytes(part("train", self.train)?, HELD_OUT, 0, part("test", self.test)?)
    }
}

const CIFAR10: Published = Published {
    name: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    label_bytes: 1,
    classes: 10,
    train: &[
        ("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    ],
    test: &[("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b")],
};

const CIFAR100: Published = Published {
    name: "CIFAR-100",
    folder: "cifar-100-binary",
    label_bytes: 2,
    classes: 100,
    train: &[("train.bin", "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29")],
    test: &[("test.bin", "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a")],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("stemm-cifar-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Records whose pixels are their own number times the channel.
    fn records(labels: &[&[u8]]) -> Vec<u8> {
        let images = (1u8..).zip(labels).map(|(number, label)| {
            let pixels = (0..PIXELS).map(move |pixel| number * (pixel / 1024 + 1) as u8);
            label.iter().copied().chain(pixels).collect::<Vec<u8>>()
        });
        images.collect::<Vec<_>>().concat()
    }

    #[test]
    fn reads_labels_and_pixels_of_both_formats() {
        let ten = [file("ten-a", &records(&[&[7], &[2]])), file("ten-b", &records(&[&[9]]))];
        let data = read_cifar("ten", &ten, 1, 10, Device::Cpu).unwrap();
        assert_eq!(Vec::<i64>::try_from(data.labels()).unwrap(), [7, 2, 9]);
        assert_eq!(data.images().size(), [3, 3, 32, 32]);
        let blue = data.images().double_value(&[1, 2, 31, 31]);
        assert!((blue - 6.0 / 255.0).abs() < 1e-7, "{blue}");
        let hundred = [file("hundred", &records(&[&[3, 99]]))];
        let data = read_cifar("hundred", &hundred, 2, 100, Device::Cpu).unwrap();
        assert_eq!(Vec::<i64>::try_from(data.labels()).unwrap(), [99]);
        ten.iter().chain(&hundred).for_each(|path| std::fs::remove_file(path).unwrap());
    }

    #[test]
    fn truncated_files_and_labels_out_of_range_are_errors() {
        let path = file("bad", &records(&[&[7], &[10]])[..PIXELS + 100]);
        assert!(matches!(read_cifar("bad", &[&path], 1, 10, Device::Cpu), Err(Error::Corrupt { .. })));
        std::fs::write(&path, records(&[&[7], &[10]])).unwrap();
        let error = read_cifar("bad", &[&path], 1, 10, Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::LabelOutOfRange { index: 1, label: 10, classes: 10, .. }), "{error}");
        std::fs::write(&path, []).unwrap();
        assert!(matches!(read_cifar("bad", &[&path], 1, 10, Device::Cpu), Err(Error::Empty { .. })));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn altered_and_missing_files_of_the_published_set_are_refused() {
        let error = cifar10("/nonexistent", Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("cifar-10-batches-bin/data_batch_1.bin") && error.contains("make cifar"), "{error}");
        let folder = std::env::temp_dir().join(format!("stemm-cifar-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("cifar-100-binary")).unwrap();
        std::fs::write(folder.join("cifar-100-binary/train.bin"), records(&[&[3, 99]])).unwrap();
        assert!(matches!(cifar100(&folder, Device::Cpu), Err(Error::Checksum { .. })));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
