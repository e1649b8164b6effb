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
