//! MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28, ten classes, pixels scaled to [0, 1].
//! `data/fetch.py` gets the files; here they are verified and read.

use std::path::{Path, PathBuf};

use tch::Device;

use super::bytes::Bytes;
use super::{IdxArray, Splits, read_idx};
use crate::error::{Error, Result};

/// Images held back from the training set.
pub(super) const HELD_OUT: usize = 5_000;

/// A published set: folder and the SHA-256 of its decompressed files.
struct Published {
    name: &'static str,
    /// Where the files may be below the folder that is named: as `make data` and as torchvision put them, or right there.
    folders: [&'static str; 3],
    train: [&'static str; 2],
    test: [&'static str; 2],
}

/// Reads Fashion-MNIST (Xiao et al. 2017) from `folder/fashion-mnist`, torchvision's
/// `folder/FashionMNIST/raw`, or `folder` itself, on the device.
///
/// Training images are split into 55,000 to train on and 5,000 held out (the same ones each time).
///
/// # Errors
/// A missing, truncated or altered file.
///
/// ```no_run
/// use stemm::prelude::*;
/// let data = fashion_mnist("data", device())?;
/// assert_eq!(data.test.len(), 10_000);
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn fashion_mnist(folder: impl AsRef<Path>, device: impl Into<Device>) -> Result<Splits> {
    FASHION_MNIST.read(folder.as_ref(), device.into())
}

/// Reads MNIST (LeCun et al. 1998) from `folder/mnist`, `folder/MNIST/raw` or `folder`, split as [`fashion_mnist`] is.
///
/// # Errors
/// A missing, truncated or altered file.
pub fn mnist(folder: impl AsRef<Path>, device: impl Into<Device>) -> Result<Splits> {
    MNIST.read(folder.as_ref(), device.into())
}

impl Published {
    fn read(&self, folder: &Path, device: Device) -> Result<Splits> {
        let folder = self.find(folder);
        let part = |prefix: &str, name: &str, sha256: [&str; 2]| -> Result<Bytes> {
            let images = verified(&folder, &format!("{prefix}-images-idx3-ubyte"), sha256[0])?;
            let labels = verified(&folder, &format!("{prefix}-labels-idx1-ubyte"), sha256[1])?;
            let shape = [1, images.shape[1], images.shape[2]];
            let labels: Vec<i64> = labels.values.into_iter().map(i64::from).collect();
            Bytes::new(format!("{} {name}", self.name), &images.values, shape, &labels, 10, device)
        };
        let (train, test) = rayon::join(|| part("train", "train", self.train), || part("t10k", "test", self.test));
        Splits::of_bytes(train?, HELD_OUT, 0, test?)
    }
}

impl Published {
    /// The first folder that holds the training images; the first of all if none does, for the message.
    fn find(&self, folder: &Path) -> PathBuf {
        let mut places = self.folders.iter().map(|below| folder.join(below));
        let has_images = |place: &PathBuf| compressed_or_plain(place, "train-images-idx3-ubyte").exists();
        places.find(has_images).unwrap_or_else(|| folder.join(self.folders[0]))
    }
}

/// Reads a file, plain or with `.gz` appended, and compares it with the published one.
fn verified(folder: &Path, name: &str, sha256: &str) -> Result<IdxArray> {
    let path = compressed_or_plain(folder, name);
    let array = read_idx(&path)?;
    if array.sha256 != sha256 {
        return Err(Error::Checksum { path, expected: sha256.into(), found: array.sha256, command: "make data" });
    }
    Ok(array)
}

fn compressed_or_plain(folder: &Path, name: &str) -> PathBuf {
    let compressed = folder.join(format!("{name}.gz"));
    if compressed.exists() { compressed } else { folder.join(name) }
}

const FASHION_MNIST: Published = Published {
    name: "Fashion-MNIST",
    folders: ["fashion-mnist", "FashionMNIST/raw", ""],
    train: [
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ],
    test: [
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ],
};

const MNIST: Published = Published {
    name: "MNIST",
    folders: ["mnist", "MNIST/raw", ""],
    train: [
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ],
    test: [
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_altered_file_is_refused_by_its_checksum() {
        let folder = std::env::temp_dir().join(format!("stemm-mnist-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("mnist")).unwrap();
        for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
            std::fs::write(folder.join("mnist").join(name), [0, 0, 8, 1, 0, 0, 0, 1, 7]).unwrap();
        }
        let error = mnist(&folder, Device::Cpu).unwrap_err();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(&error, Error::Checksum { path, .. } if path.ends_with("train-images-idx3-ubyte")));
    }

    #[test]
    fn a_missing_file_says_how_to_get_it() {
        let error = fashion_mnist("/nonexistent", Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/fashion-mnist/train-images") && error.contains("make data"), "{error}");
    }
}
