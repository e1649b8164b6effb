//! Plans and their folders: names that tell data apart, rows that were gathered, barriers as they are asked for.

#[path = "shared/folder.rs"]
mod shared;

use std::path::{Path, PathBuf};

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
    let refused = |plan: Plan, name: &str| {
        let error = plan.entries().unwrap_err();
        assert!(matches!(&error, Error::Setting { setting, .. } if *setting == name), "{name}: {error}");
    };
    refused(Plan { data: vec![plan.data[0].clone(); 2], ..plan.clone() }, "data");
    refused(Plan { networks: vec![plan.networks[0].clone(); 2], ..plan.clone() }, "networks");
    refused(Plan { methods: vec![plan.methods[0].clone(); 2], ..plan.clone() }, "methods");
    refused(Plan { counts: vec![2, 3, 2], ..plan.clone() }, "counts");
    refused(Plan { seeds: vec![5, 5], ..plan.clone() }, "seeds");
    refused(Plan { data: vec![], ..plan.clone() }, "data");
    refused(Plan { networks: vec![], ..plan }, "networks");
}

#[test]
fn settings_of_every_part_are_refused_before_anything_is_trained() {
    let plan = plan(Path::new("nowhere"));
    let refused = |plan: Plan, name: &str, words: &str| {
        let error = plan.entries().unwrap_err();
        let found = matches!(&error, Error::Setting { setting, .. } if *setting == name);
        assert!(found && error.to_string().contains(words), "{name}: {error}");
    };
    let method = |method: Method| Plan { methods: vec![Naive.into(), method], ..plan.clone() };
    refused(method(SteMm { epochs: 0, ..SteMm::default() }.into()), "methods", "ste-mm with `epochs` 0");
    refused(method(Sinkhorn { temperature: f64::NAN, ..Sinkhorn::default() }.into()), "methods", "`temperature`");
    let steps = FrankWolfe { max_steps: 0, ..FrankWolfe::default() };
    refused(method(Method::named("mine", steps)), "methods", "mine with `max_steps` 0");
    refused(method(WeightMatching { max_sweeps: 0, ..WeightMatching::default() }.into()), "methods", "`max_sweeps`");
    refused(method(ActivationMatching { samples: 0, ..Default::default() }.into()), "methods", "`samples`");
    refused(method(SteMm { seed: 9, ..SteMm::default() }.into()), "methods", "give them as `seeds`");
    let merge = |merge| Plan { merges: vec![merge], ..plan.clone() };
    refused(merge(Merging::Fisher(Fisher { floor: 0.0, ..Fisher::default() })), "merges", "fisher with `floor`");
    refused(merge(Merging::RegMean(RegMean { shrinkage: f64::NAN, ..Default::default() })), "merges", "`shrinkage`");
    let trace = Some(Hutchinson { vectors: 1, ..Hutchinson::default() });
    refused(Plan { trace, ..plan.clone() }, "trace", "`vectors` 1");
    let estimator = Estimator::HutchPlusPlus { basis: 1_000_000 };
    let trace = Some(Hutchinson { estimator, ..Hutchinson::default() });
    refused(Plan { trace, ..plan.clone() }, "trace", "`basis` 1000000");
    refused(method(Method::named("mine", SteMm { seed: 9, ..SteMm::default() })), "methods", "mine with `seed` 9");
    refused(method(SteMm { epochs: usize::MAX / 2, ..SteMm::default() }.into()), "methods", "at most");
    refused(Plan { counts: vec![1 << 24], groups: 100, ..plan.clone() }, "counts", "ten million");
}

/// Files of a folder and all below it whose names end so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let below = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let own = below.flat_map(|path| if path.is_dir() { files(&path, ending) } else { vec![path] });
    own.filter(|path| path.to_str().unwrap().ends_with(ending)).collect()
}

fn losses(verdicts: &Verdicts) -> Vec<(f64, f64)> {
    let measured = verdicts.rows.iter().map(|row| row.measured.as_ref().unwrap());
    measured.map(|own| (own.test_loss, own.worst_barrier)).collect()
}

#[test]
fn damaged_models_and_alignments_are_set_aside_and_made_anew() {
    let path = folder("plans-damaged");
    let plan = plan(&path);
    let before = losses(&run(&plan));
    let rows = |folder: &Path| files(folder, ".parquet").iter().for_each(|row| std::fs::remove_file(row).unwrap());
    // A bit in the weights of a model, which stand at the end; a figure beside permutations.
    for (folder, found) in [("models", &b"\"network\":"[..]), ("alignments", &b"models_loss"[..])] {
        let file = files(&path.join(folder), ".safetensors").remove(0);
        // Twice: what was set aside before stays.
        for count in 1..=2 {
            let mut bytes = std::fs::read(&file).unwrap();
            assert!(bytes.windows(found.len()).any(|window| window == found));
            let place = match folder {
                "models" => bytes.len() - 2,
                _ => bytes.windows(found.len()).position(|window| window == found).unwrap() + found.len() + 6,
            };
            bytes[place] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            rows(&path);
            assert_eq!(losses(&run(&plan)), before);
            assert_eq!(files(file.parent().unwrap(), ".damaged").len(), count, "{folder}");
        }
    }
    // The alignment of another method of the same models in the place of one.
    let alignments = files(&path.join("alignments"), ".safetensors");
    assert_eq!(alignments.len(), 4);
    let method = |file: &Path| Alignment::load(file, &Network::mlp(&[16, 8, 4]).unwrap()).unwrap().method;
    for file in &alignments {
        let others = alignments.iter().filter(|other| method(other) != method(file));
        let copies: Vec<Vec<u8>> = others.map(|other| std::fs::read(other).unwrap()).collect();
        let own = std::fs::read(file).unwrap();
        for copy in copies {
            std::fs::write(file, copy).unwrap();
            rows(&path);
            assert_eq!(losses(&run(&plan)), before);
            std::fs::write(file, &own).unwrap();
        }
    }
    std::fs::remove_dir_all(path).unwrap();
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
fn every_method_has_the_seeds_of_the_plan() {
    let methods = vec![SteMm::default().into()];
    let plan = Plan { methods, seeds: vec![3, 4], groups: 1, ..plan(Path::new("nowhere")) };
    let seeds: Vec<u64> = plan.entries().unwrap().iter().map(|entry| entry.experiment.seed).collect();
    let hashes: Vec<String> = plan.entries().unwrap().iter().map(|entry| entry.experiment.hash()).collect();
    assert_eq!(seeds, [3, 4]);
    assert_ne!(hashes[0], hashes[1]);
}

#[test]
fn a_plan_has_to_be_text_and_a_bare_name_is_told_how_it_is_written() {
    let path = folder("plans-text");
    std::fs::create_dir_all(&path).unwrap();
    let file = path.join("plan.toml");
    std::fs::write(&file, b"results = \"ergebni\xdfe\"").unwrap();
    let error = Plan::load(&file).unwrap_err().to_string();
    assert!(error.contains("no UTF-8") && error.contains("plan.toml"), "{error}");
    let text = "results = \"x\"\ndata = [{ set = \"Mnist\" }]\nnetworks = [{ Mlp = [784, 8, 10] }]\ncounts = [2]\ngroups = 1\n";
    let error = Plan::parse(&format!("{text}methods = [\"WeightMatching\"]")).unwrap_err().to_string();
    assert!(error.contains("{ WeightMatching = {} }"), "{error}");
    std::fs::remove_dir_all(path).unwrap();
}
