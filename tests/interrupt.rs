//! What an interrupt does to long work: the kernel leaves a note, the work stops at its next step with an error that says how
//! far it was, and a training that is a value goes on to the same bits.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use stemm::prelude::*;
use stemm::{Error, Result};

/// The kernel's folder of notes, in place of a kernel's; the tests take turns.
fn notes() -> (MutexGuard<'static, ()>, PathBuf) {
    static TURN: Mutex<()> = Mutex::new(());
    static SET: Once = Once::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = std::env::temp_dir().join(format!("stemm-notes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // SAFETY: the first test to get its turn sets it, before any other reads it.
    SET.call_once(|| unsafe { std::env::set_var("STEMM_KERNEL", &folder) });
    let note = folder.join("interrupt");
    let _ = std::fs::remove_file(&note);
    (turn, note)
}

fn data_and_network() -> Result<(Splits, Network)> {
    Ok((blobs(0, Device::Cpu)?, Network::mlp(&[16, 64, 64, 4])?))
}

#[test]
fn a_training_that_is_a_value_goes_on_to_the_same_bits() -> Result<()> {
    let (_turn, note) = notes();
    let (data, network) = data_and_network()?;
    let trainer = Trainer { epochs: 20, batch_size: 32, progress: Progress::Silent, ..Trainer::default() };
    let whole = trainer.train(&network, &data, &[0, 1])?;
    let mut run = trainer.start(&network, &data, &[0, 1])?;
    let mut interrupts = 0;
    let resumed = loop {
        let interrupter = std::thread::spawn({
            let note = note.clone();
            // Longer each time: an epoch takes what it takes.
            let wait = Duration::from_millis(40 * (interrupts + 1));
            move || {
                std::thread::sleep(wait);
                std::fs::write(note, "").unwrap();
            }
        });
        let result = run.train();
        interrupter.join().unwrap();
        std::fs::remove_file(&note).unwrap();
        match result {
            Ok(training) => break training,
            Err(Error::Interrupted { done }) => assert!(done.starts_with("training 2 models, "), "{done}"),
            Err(error) => return Err(error),
        }
        interrupts += 1;
        assert!(interrupts < 100);
    };
    assert!(interrupts > 0 && !run.history().epochs.is_empty());
    for (one, other) in whole.models.iter().zip(&resumed.models) {
        for ((_, one), (_, other)) in one.params.iter().zip(other.params.iter()) {
            assert!(one.equal(other), "a parameter differs");
        }
    }
    let losses = |training: &Training| training.history.epochs.iter().map(|row| row.train_loss).collect::<Vec<_>>();
    assert!(losses(&whole) == losses(&resumed), "the losses differ");
    assert_eq!(losses(&run.train()?), losses(&resumed), "once done, it gives the same again");
    Ok(())
}

#[test]
fn work_without_progress_stops_too() -> Result<()> {
    let (_turn, note) = notes();
    let (data, network) = data_and_network()?;
    let models =
        Trainer { epochs: 1, progress: Progress::Silent, ..Trainer::default() }.train(&network, &data, &[0, 1])?.models;
    std::fs::write(&note, "").unwrap();
    assert!(interrupted());
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(25)); // the note is looked for this often at most
    assert!(matches!(models[0].evaluate(&data.test), Err(Error::Interrupted { .. })));
    let matching = WeightMatching { progress: Progress::Silent, ..WeightMatching::default() };
    std::thread::sleep(Duration::from_millis(25));
    assert!(matches!(matching.align(&models, &data), Err(Error::Interrupted { .. })));
    assert!(start.elapsed() < Duration::from_secs(5));
    std::fs::remove_file(&note).unwrap();
    std::thread::sleep(Duration::from_millis(25));
    assert!(models[0].evaluate(&data.test).is_ok() && !interrupted());
    Ok(())
}

#[test]
fn steps_of_a_checkpoint_are_said_to_be_done() -> Result<()> {
    let (_turn, note) = notes();
    let data = blobs(0, Device::Cpu)?;
    let network = Network::mlp(&[16, 8, 4])?;
    let folder = note.with_file_name("checkpoints");
    let kept = |epochs| Trainer { epochs, batch_size: 64, checkpoints: Some(folder.clone()), ..Trainer::default() };
    kept(2).train(&network, &data, &[0])?;
    std::fs::write(&note, "").unwrap();
    std::thread::sleep(Duration::from_millis(25)); // the note is looked for this often at most
    let error = kept(5).train(&network, &data, &[0, 1]).err();
    let steps = data.train.len().div_ceil(64);
    let expected = format!("training 2 models, {} of {} steps", 2 * steps, 2 * 5 * steps);
    assert!(matches!(&error, Some(Error::Interrupted { done }) if *done == expected), "{expected}: {error:?}");
    std::fs::remove_file(&note).unwrap();
    std::thread::sleep(Duration::from_millis(25));
    std::fs::remove_dir_all(&folder).unwrap();
    Ok(())
}

#[test]
fn an_interrupt_says_which_work_it_was_and_how_many_steps_it_has() -> Result<()> {
    let (_turn, note) = notes();
    let data = blobs(0, Device::Cpu)?;
    let network = Network::mlp(&[16, 8, 4])?;
    let models = (0..5).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
    let models = models.collect::<Result<Vec<_>>>()?;
    let (model, batches) = (&models[0], data.train.len().div_ceil(100));
    let one = [("one", model)];
    let simplex = Simplex { samples: 6, steps: 4, ..Simplex::default() };
    let plane = Plane { points: 5, ..Plane::default() };
    let aligners: [&dyn Aligner; 1] = [&WeightMatching::default()];
    type Work<'a> = Box<dyn Fn() -> Option<Error> + 'a>;
    let work: [(&str, usize, Work); 11] = [
        // 10 pairs, 5 inner places each, and the ends
        (
            "barriers lines",
            10 * 5 + 5,
            Box::new(|| {
                Interpolation { points: 7, ..Interpolation::default() }.barriers("lines", &models, &data).err()
            }),
        ),
        (
            "curve bent",
            3 * batches,
            Box::new(|| {
                Bezier { epochs: 3, batch_size: 100, ..Bezier::default() }.fit("bent", &models[..2], &data).err()
            }),
        ),
        ("simplex all", 6 + 1, Box::new(|| simplex.losses("all", &models, &data).err())),
        ("triangle three", 5 * 6 / 2, Box::new(|| simplex.ternary("three", &models[..3], &data).err())),
        ("plane around", 25, Box::new(|| plane.around("around", model, &data).err())),
        // 2 pairs, a triple, a quadruple, all five: naive, matched, ensemble
        ("merges", 5 * 3, Box::new(|| MergeGrowth::default().run(&models, &aligners, &data).err())),
        (
            "spectral density",
            3 * 7,
            Box::new(|| {
                SpectralDensity { vectors: 3, steps: 7, ..SpectralDensity::default() }.of(one[0], &data.test).err()
            }),
        ),
        (
            "Hessian eigenvalues",
            9,
            Box::new(|| Lanczos { max_products: 9, ..Lanczos::default() }.eigenvalues(&one, &data.test).err()),
        ),
        (
            "Hessian trace",
            2 * 6,
            Box::new(|| {
                let models = [one[0], one[0]];
                Hutchinson { vectors: 6, ..Hutchinson::default() }.traces(&models, &data.test).err()
            }),
        ),
        (
            "STE-MM, 5 models",
            2 * batches,
            Box::new(|| SteMm { epochs: 2, batch_size: 100, ..SteMm::default() }.align(&models, &data).err()),
        ),
        (
            "weight matching, 5 models",
            8,
            Box::new(|| WeightMatching { max_sweeps: 8, ..WeightMatching::default() }.align(&models, &data).err()),
        ),
    ];
    std::fs::write(&note, "").unwrap();
    for (label, steps, run) in work {
        std::thread::sleep(Duration::from_millis(25)); // the note is looked for this often at most
        let error = run();
        let expected = format!("{label}, 0 of {steps} steps");
        assert!(matches!(&error, Some(Error::Interrupted { done }) if *done == expected), "{expected}: {error:?}");
    }
    std::fs::remove_file(&note).unwrap();
    std::thread::sleep(Duration::from_millis(25));
    Ok(())
}
