//! Plans and their folders: names that tell data apart, rows that were gathered, barriers as they are asked for.

#[path = "shared/folder.rs"]
mod shared;

use std::path::Path;

use stemm::Error;
use stemm::data::Augmentation;
use stemm::experiment::{Bench, Data, DataSet, Experiment, Outcome, Published, Verdicts};
use stemm::prelude::*;

use shared::folder;

fn plan(results: &Path) -> Plan {
    let text = r#"
        results = "."
        data = [{ set = { Blobs = 0 } }]
        networks = [{ Mlp = [16, 8, 4] }]
        methods = ["Naive", { WeightMatching = {} }]
        counts = [2]
        groups = 2
        [trainer]
        epochs = 2
        batch_size = 64
    "#;
    Plan { results: results.to_owned(), ..Plan::parse(text).unwrap() }
}

fn run(plan: &Plan) -> Verdicts {
    plan.run(&plan.entries().unwrap(), Device::Cpu, Progress::Silent).unwrap()
}

#[test]
fn data_are_called_by_all_in_which_they_differ() {
    let set = |set: DataSet| Published::from(set);
    let augmentation = Augmentation { flip: true, crop_padding: 4 };
    let normalisation = Some([vec![0.5], vec![0.25]]);
    for (data, name) in [
        (set(DataSet::Blobs(3)), "blobs 3"),
        (set(DataSet::Mnist), "MNIST"),
        (Published { samples: Some([100, 50]), ..set(DataSet::Mnist) }, "MNIST, 100 + 50"),
        (Published { normalisation, ..set(DataSet::FashionMnist) }, "Fashion-MNIST, normalised by [0.5] [0.25]"),
        (Published { augmentation, ..set(DataSet::Cifar10) }, "CIFAR-10, flipped, cropped by 4"),
    ] {
        assert_eq!(data.to_string(), name);
    }
}

#[test]
fn what_tables_could_not_tell_apart_is_refused() {
    let plan = plan(Path::new("nowhere"));
    let twice = |plan: Plan, name: &str| {
        let error = plan.entries().unwrap_err();
        assert!(matches!(&error, Error::Setting { setting, .. } if *setting == name), "{name}: {error}");
    };
    twice(Plan { data: vec![plan.data[0].clone(); 2], ..plan.clone() }, "data");
    twice(Plan { networks: vec![plan.networks[0].clone(); 2], ..plan.clone() }, "networks");
    twice(Plan { methods: vec![plan.methods[0].clone(); 2], ..plan.clone() }, "methods");
    twice(Plan { data: vec![], ..plan.clone() }, "data");
    twice(Plan { networks: vec![], ..plan }, "networks");
}

#[test]
fn rows_that_were_gathered_are_not_measured_again_but_for_errors() {
    let (first, second) = (folder("plans-first"), folder("plans-second"));
    let measured = run(&plan(&first));
    assert_eq!(measured.rows.len(), 4);
    std::fs::create_dir_all(&second).unwrap();
    let gathered = |verdicts: &Verdicts| save_parquet(&verdicts.frame(), second.join("all.parquet")).unwrap();
    gathered(&measured);
    // With their times.
    assert_eq!(format!("{:?}", run(&plan(&second))), format!("{measured:?}"));
    assert!(!second.join("models").exists(), "nothing needed to be trained");
    let mut broken = measured.clone();
    broken.rows[1].measured = Err("the disk was full".into());
    gathered(&broken);
    let status = plan(&second).status().unwrap();
    assert_eq!((status.count(Outcome::Done), status.missing()), (3, vec![1]));
    let mended = run(&plan(&second));
    let loss = |verdicts: &Verdicts| verdicts.rows[1].measured.as_ref().map(|own| own.test_loss).unwrap();
    assert_eq!(loss(&mended), loss(&measured));
    [first, second].iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
}

#[test]
fn a_bench_that_holds_an_alignment_measures_the_barriers_that_are_asked_for() {
    let data = blobs(0, Device::Cpu).unwrap();
    let experiment = |barrier_points| Experiment {
        data: Data::Published(DataSet::Blobs(0).into()),
        network: Network::mlp(&[16, 8, 4]).unwrap(),
        trainer: Trainer { epochs: 2, batch_size: 64, progress: Progress::Silent, ..Trainer::default() },
        models: vec![0, 1],
        method: Method::Naive,
        seed: 0,
        merge: Merging::Mean,
        barrier_points,
        trace: None,
    };
    let mut bench = Bench::new(&data);
    let barrier = |bench: &mut Bench, points| bench.measure(&experiment(points)).unwrap().worst_barrier;
    let (coarse, fine) = (barrier(&mut bench, 4), barrier(&mut bench, 11));
    assert_ne!(coarse, fine);
    assert_eq!(fine, barrier(&mut Bench::new(&data), 11));
}

#[test]
fn what_failed_is_told_from_what_is_missing_with_its_reason() {
    let path = folder("plans-failed");
    let good = plan(&path);
    let hopeless = Plan { trainer: Trainer { learning_rate: 1e30, ..good.trainer.clone() }, ..good };
    let counts = |plan: &Plan| {
        let status = plan.status().unwrap();
        [Outcome::Done, Outcome::Failed, Outcome::Missing].map(|outcome| status.count(outcome))
    };
    assert_eq!(counts(&hopeless), [0, 0, 4]);
    run(&hopeless);
    assert_eq!(counts(&hopeless), [0, 4, 0]);
    let errors = hopeless.status().unwrap().errors;
    assert_eq!(errors.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(errors.iter().all(|(_, reason)| reason.contains("learning rate")), "{errors:?}");
    assert_eq!(hopeless.status().unwrap().missing(), [0, 1, 2, 3]);
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn the_seed_of_a_method_is_that_of_the_plan() {
    let with = |seed| {
        let methods = vec![SteMm { seed, ..SteMm::default() }.into()];
        let plan = Plan { methods, seeds: vec![3, 4], ..plan(Path::new("nowhere")) };
        plan.entries().unwrap().iter().map(|entry| entry.experiment.hash()).collect::<Vec<_>>()
    };
    assert_eq!(with(0), with(7));
    assert_ne!(with(0)[0], with(0)[1]);
}
