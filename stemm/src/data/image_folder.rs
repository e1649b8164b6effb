//! Images of the user's own: a folder with one folder of image files for each class.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::ImageFormat;
use image::imageops::FilterType;
use tch::Device;

use super::Dataset;
use super::bytes::Bytes;
use crate::error::{Error, Result};

/// Reads `folder/class/**` as images of `shape: [channels, height, width]`, with 1 (grey) or 3 (colour) channels; images of
/// another size are resized. Classes are numbered in the order of their names ([`Dataset::class_names`]).
///
/// Every format that the crate `image` is built with is read: PNG, JPEG, WebP, BMP, TIFF, GIF (its first picture), PNM.
/// Names that begin with a dot and `__MACOSX` are not looked at; other files are passed over and counted
/// ([`Dataset::skipped_files`]).
///
/// # Errors
/// A folder that cannot be read, a class without images, a file that is no image, another number of channels.
///
/// ```no_run
/// use stemm::prelude::*;
/// let data = image_folder("pets/train", [3, 64, 64], device())?;
/// let data = Splits::new(&data, 500, 0, image_folder("pets/test", [3, 64, 64], device())?)?;
/// # Ok::<(), stemm::Error>(())
/// ```
///
/// Folders that lack a class are numbered otherwise: [`Splits::new`] compares the names; a model alone does not know them.
pub fn image_folder(folder: impl AsRef<Path>, shape: [i64; 3], device: impl Into<Device>) -> Result<Dataset> {
    let folder = folder.as_ref();
    let classes: Vec<String> =
        entries(folder)?.into_iter().filter(|path| path.is_dir()).map(|path| name(&path)).collect();
    let data = read(folder, &classes, shape, device.into())?;
    match data.absent_classes()?.first() {
        Some(class) => Err(Error::Empty { what: format!("the class folder {}", folder.join(class).display()) }),
        None => Ok(data),
    }
}

/// [`image_folder`] with a list of classes, numbered in its order: for parts of which one lacks a class.
///
/// # Errors
/// As [`image_folder`], but a class may have no images here; a folder of a class that is not in the list.
///
/// ```no_run
/// use stemm::prelude::*;
/// let train = image_folder("pets/train", [3, 64, 64], device())?;
/// let test = image_folder_of("pets/test", train.class_names(), [3, 64, 64], device())?; // no hamsters here
/// let data = Splits::new(&train, 500, 0, test)?;
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn image_folder_of<S: AsRef<str>>(
    folder: impl AsRef<Path>,
    classes: &[S],
    shape: [i64; 3],
    device: impl Into<Device>,
) -> Result<Dataset> {
    let folder = folder.as_ref();
    let classes: Vec<String> = classes.iter().map(|class| class.as_ref().to_owned()).collect();
    let foreign = entries(folder)?.into_iter().filter(|path| path.is_dir()).map(|path| name(&path));
    let foreign: Vec<String> = foreign.filter(|class| !classes.contains(class)).collect();
    if let Some(class) = classes.iter().find(|class| name(Path::new(class)) != **class) {
        let requirement = "names of folders, without a path";
        return Err(Error::Setting { setting: "classes", value: format!("{class:?}"), requirement });
    }
    let twice = (1..classes.len()).any(|index| classes[..index].contains(&classes[index]));
    if twice || !foreign.is_empty() {
        let value = if twice { format!("{classes:?}") } else { format!("without {}", foreign.join(", ")) };
        let requirement = "a list that names every class folder, each once";
        return Err(Error::Setting { setting: "classes", value, requirement });
    }
    read(folder, &classes, shape, device.into())
}

fn read(folder: &Path, classes: &[String], shape: [i64; 3], device: Device) -> Result<Dataset> {
    let [channels, height, width] = shape;
    if !(channels == 1 || channels == 3) || !(1..=1 << 14).contains(&height) || !(1..=1 << 14).contains(&width) {
        let requirement = "[1 or 3, height, width] with sides of 1 to 16384 pixels";
        return Err(Error::Setting { setting: "shape", value: format!("{shape:?}"), requirement });
    }
    let (mut labels, mut pixels, mut skipped) = (Vec::new(), Vec::new(), 0);
    for (label, class) in (0i64..).zip(classes) {
        let class = folder.join(class);
        for path in if class.is_dir() { files(&class)? } else { Vec::new() } {
            if is_image(&path) {
                pixels.extend(planes(&path, channels, height as u32, width as u32)?);
                labels.push(label);
            } else {
                skipped += 1;
            }
        }
    }
    skipped += entries(folder)?.iter().filter(|path| !path.is_dir()).count();
    if labels.is_empty() {
        let what = format!("the folder {} (one folder of images for each class)", folder.display());
        return Err(Error::Empty { what });
    }
    let name = folder.display().to_string();
    let data = Bytes::new(name, &pixels, shape, &labels, classes.len() as i64, device)?.dataset()?;
    Ok(Dataset { class_names: Arc::from(classes), skipped_files: skipped, ..data })
}

/// All files of a folder and the folders in it, in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        // A link to a folder could lead back to where it is.
        if path.is_dir() && !path.is_symlink() { files.extend(self::files(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

/// The entries of a folder in the order of their names, without those that programs leave there for themselves.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let hint = "name a folder with one folder of images for each class";
    let failed = |source| Error::File { action: "read", path: folder.into(), source, hint };
    let found = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths = found.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| !name(path).starts_with('.') && name(path) != "__MACOSX");
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_image(path: &Path) -> bool {
    path.is_file() && ImageFormat::from_path(path).is_ok_and(|format| format.reading_enabled())
}

/// The pixels of an image, channel by channel.
fn planes(path: &Path, channels: i64, height: u32, width: u32) -> Result<Vec<u8>> {
    let hint = "open it in a viewer, then replace it or move it out of the folder";
    let corrupt = |error: String| Error::Corrupt { path: path.into(), format: "image", reason: error, hint };
    let reader = image::ImageReader::open(path).and_then(image::ImageReader::with_guessed_format);
    let reader = reader.map_err(|error| corrupt(error.to_string()))?;
    let mut image = reader.decode().map_err(|error| corrupt(error.to_string()))?;
    if (image.height(), image.width()) != (height, width) {
        image = image.resize_exact(width, height, FilterType::Triangle);
    }
    if channels == 1 {
        return Ok(image.into_luma8().into_raw());
    }
    let interleaved = image.into_rgb8().into_raw();
    Ok((0..3).flat_map(|channel| interleaved.iter().copied().skip(channel).step_by(3)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("stemm-images-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn classes_are_folders_in_order_and_channels_are_separate() {
        let folder = folder("two");
        for (class, color) in [("b", [0, 255, 0]), ("a", [255, 0, 0])] {
            std::fs::create_dir_all(folder.join(class)).unwrap();
            let size = if class == "a" { 4 } else { 8 };
            image::RgbImage::from_pixel(size, size, image::Rgb(color)).save(folder.join(class).join("x.png")).unwrap();
            std::fs::write(folder.join(class).join("notes.txt"), "no image").unwrap();
        }
        let data = image_folder(&folder, [3, 4, 4], Device::Cpu).unwrap();
        assert_eq!((data.len(), data.classes()), (2, 2));
        let mean = |index, channel| data.images().get(index).get(channel).mean(Kind::Float).double_value(&[]);
        assert_eq!([mean(0, 0), mean(0, 1), mean(1, 0), mean(1, 1)], [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(image_folder(&folder, [1, 2, 2], Device::Cpu).unwrap().images().size(), [2, 1, 2, 2]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn empty_folders_broken_images_and_other_channels_are_errors() {
        let folder = folder("bad");
        std::fs::create_dir_all(folder.join("a")).unwrap();
        assert!(matches!(image_folder(&folder, [3, 4, 4], Device::Cpu), Err(Error::Empty { .. })));
        std::fs::write(folder.join("a").join("x.png"), b"\x89PNG\r\n\x1a\nnothing").unwrap();
        assert!(matches!(image_folder(&folder, [3, 4, 4], Device::Cpu), Err(Error::Corrupt { .. })));
        assert!(matches!(image_folder(&folder, [2, 4, 4], Device::Cpu), Err(Error::Setting { setting: "shape", .. })));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(matches!(image_folder(&folder, [3, 4, 4], Device::Cpu), Err(Error::File { .. })));
    }
}
