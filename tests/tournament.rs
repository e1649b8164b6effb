//! The referee: the same table however often it is killed, one row a cell whatever fails, and repeats that are repeats.

#[path = "shared/folder.rs"]
mod shared;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stemm::Error;
use stemm::data::Splits;
use stemm::experiment::{Measured, Row, Verdicts};
use stemm::prelude::*;

use shared::folder;

fn tournament(results: Option<PathBuf>) -> Tournament {
    let quiet = Progress::Silent;
    Tournament {
        trainer: Trainer { epochs: 6, batch_size: 64, progress: quiet, ..Trainer::default() },
        methods: vec![
            Naive.into(),
            WeightMatching::default().into(),
            SteMm { epochs: 6, batch_size: 64, ..SteMm::default() }.into(),
        ],
        merges: vec![Merging::Mean, Merging::GreedySoup],
        counts: vec![2, 3],
        groups: 2,
        seeds: vec![0, 1],
        barrier_points: 5,
        results,
        progress: quiet,
        ..Tournament::new(Network::mlp(&[16, 24, 16, 4]).unwrap())
    }
}

/// Rows without what differs from run to run.
fn figures(verdicts: &Verdicts) -> Vec<String> {
    let timeless = |row: &Row| {
        let mut row = row.clone();
        row.measured = row.measured.map(|own| Measured { seconds: 0.0, merge_seconds: 0.0, peak_memory: None, ..own });
        format!("{row:?}")
    };
    verdicts.rows.iter().map(timeless).collect()
}

/// Runs in a process of its own, to be killed.
#[test]
#[ignore = "another test runs it"]
fn runs_a_tournament() {
    let Some(path) = std::env::var_os("STEMM_TOURNAMENT") else { return };
    tournament(Some(path.into())).run(&blobs(0, Device::Cpu).unwrap()).unwrap();
}

fn killed_after(milliseconds: u64, path: &Path) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "runs_a_tournament"])
        .env("STEMM_TOURNAMENT", path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(milliseconds));
    let ended = child.try_wait().unwrap().is_some();
    let _ = child.kill();
    child.wait().unwrap();
    !ended
}

#[test]
fn killed_at_any_moment_and_started_again_it_gives_the_table_of_one_run() {
    let data = blobs(0, Device::Cpu).unwrap();
    let straight = tournament(None).run(&data).unwrap();
    assert_eq!(straight.rows.len(), 2 * 2 * 3 * 2 * 2);
    assert!(straight.rows.iter().all(|row| row.measured.is_ok()));
    let path = folder("tournament-killed");
    // Until it comes through; each time a little later.
    let kills = (0..60).map(|round| killed_after(60 + 40 * round, &path)).take_while(|killed| *killed).count();
    assert!(kills >= 2, "never killed on its way");
    let resumed = tournament(Some(path.clone())).run(&data).unwrap();
    assert_eq!(figures(&straight), figures(&resumed));
    // What is there is read, not measured again: times are those of before.
    let again = tournament(Some(path.clone())).run(&data).unwrap();
    assert_eq!(format!("{resumed:?}"), format!("{again:?}"));
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn rows_of_other_data_and_settings_are_kept_and_not_taken() {
    let path = folder("tournament-other");
    let first = Tournament { groups: 1, seeds: vec![0], ..tournament(Some(path.clone())) };
    let own = first.run(&blobs(0, Device::Cpu).unwrap()).unwrap();
    let others = first.run(&blobs(1, Device::Cpu).unwrap()).unwrap();
    assert_ne!(figures(&own), figures(&others));
    // The alignments are those of before, the barriers are not: no inner place is one of before.
    let finer = |results| {
        let finer = Tournament { barrier_points: 8, groups: 1, seeds: vec![0], ..tournament(results) };
        figures(&finer.run(&blobs(0, Device::Cpu).unwrap()).unwrap())
    };
    assert_eq!(finer(Some(path.clone())), finer(None));
    // All three are in the folder.
    let files = || std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<PathBuf> = files().filter(|path| path.extension().is_some_and(|end| end == "parquet")).collect();
    assert_eq!(tables.len(), 3 * own.rows.len());
    assert_eq!(format!("{own:?}"), format!("{:?}", first.run(&blobs(0, Device::Cpu).unwrap()).unwrap()));
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn rows_that_another_tournament_measured_are_numbered_as_this_one_counts() {
    let data = blobs(0, Device::Cpu).unwrap();
    let path = folder("tournament-numbered");
    let small = |counts: Vec<usize>, groups, methods: Vec<Method>| Tournament {
        counts,
        groups,
        methods,
        ..tournament(Some(path.clone()))
    };
    // Groups of two: seeds 0 1, 2 3, 4 5; groups of four: seeds 0 to 3, 4 to 7, whose first two are those of groups 0 and 2.
    small(vec![2], 3, vec![Naive.into()]).run(&data).unwrap();
    let both = small(vec![2, 4], 2, vec![Naive.into(), WeightMatching::default().into()]).run(&data).unwrap();
    for method in ["naive", "weight matching"] {
        let of = |count| both.rows.iter().filter(move |row| row.method == method && row.n_models == count);
        assert_eq!(of(2).map(|row| row.group).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1], "{method}");
        assert_eq!(of(2).map(|row| row.seed).collect::<Vec<_>>(), [0, 0, 1, 1, 0, 0, 1, 1], "{method}");
    }
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_further_merge_leaves_what_was_measured() {
    let data = blobs(0, Device::Cpu).unwrap();
    let path = folder("tournament-further");
    let with = |merges| Tournament { merges, groups: 1, ..tournament(Some(path.clone())) }.run(&data).unwrap();
    let first = with(vec![Merging::Mean]);
    let both = with(vec![Merging::Mean, Merging::RegMean(RegMean::default())]);
    let means: Vec<String> = both.rows.iter().filter(|row| row.merge == "mean").map(|row| format!("{row:?}")).collect();
    assert_eq!(means, first.rows.iter().map(|row| format!("{row:?}")).collect::<Vec<_>>());
    assert_eq!(both.rows.len(), 2 * first.rows.len());
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn one_model_is_merged_with_nothing() {
    let data = blobs(0, Device::Cpu).unwrap();
    let verdicts = Tournament { counts: vec![1, 2], ..tournament(None) }.run(&data).unwrap();
    let alone: Vec<&Row> = verdicts.rows.iter().filter(|row| row.n_models == 1).collect();
    assert_eq!(alone.len(), 2 * 2); // groups, seeds
    for row in alone {
        let own = row.measured.as_ref().unwrap();
        assert_eq!((row.method.as_str(), row.merge.as_str(), own.worst_barrier), ("naive", "mean", 0.0));
        assert!(own.excess().abs() < 1e-6 && (own.test_loss - own.ensemble_loss).abs() < 1e-6, "{own:?}");
    }
    assert!(verdicts.summary("weight matching").is_ok() && verdicts.chart().svg().is_ok());
}

#[test]
fn the_statistics_of_a_single_model_stay_as_they_are() {
    let layers: [(&str, Layer); 4] = [
        ("fc", Linear::new(16, 12).into()),
        ("norm", BatchNorm::new(12).into()),
        ("relu", Relu.into()),
        ("head", Linear::new(12, 4).into()),
    ];
    let network = Network::new([16], layers).unwrap();
    let verdicts = Tournament { network, counts: vec![1], ..tournament(None) }.run(&blobs(0, Device::Cpu).unwrap());
    assert!(verdicts.unwrap().rows.iter().all(|row| row.measured.as_ref().is_ok_and(|own| own.excess() == 0.0)));
}

/// Files of a folder of results.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|own| own == ending)).collect();
    found.sort();
    found
}

#[test]
fn what_is_damaged_in_the_results_is_set_aside_and_made_anew() {
    let data = blobs(0, Device::Cpu).unwrap();
    let path = folder("tournament-damaged");
    let run = || tournament(Some(path.clone())).run(&data).unwrap();
    let whole = figures(&run());
    let models = std::fs::read_dir(path.join("models")).unwrap().next().unwrap().unwrap().path();
    for folder in [&path, &path.join("alignments"), &models] {
        let ending = if *folder == path { "parquet" } else { "safetensors" };
        let file = files(folder, ending).remove(1);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        // Everything that was made from it is asked for again.
        if *folder != path {
            files(&path, "parquet").iter().for_each(|row| std::fs::remove_file(row).unwrap());
        }
        assert_eq!(figures(&run()), whole, "{}", file.display());
        assert_eq!(files(folder, "damaged").len(), 1, "{}", folder.display());
    }
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn an_alignment_of_other_models_is_not_taken() {
    let data = blobs(0, Device::Cpu).unwrap();
    let path = folder("tournament-stale");
    let small = || Tournament {
        counts: vec![3],
        methods: vec![WeightMatching::default().into()],
        seeds: vec![0],
        ..tournament(Some(path.clone()))
    };
    let whole = figures(&small().run(&data).unwrap());
    let alignments = files(&path.join("alignments"), "safetensors");
    assert_eq!(alignments.len(), 2); // one a group
    let bytes = alignments.iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>();
    alignments.iter().zip(bytes.iter().rev()).for_each(|(file, bytes)| std::fs::write(file, bytes).unwrap());
    files(&path, "parquet").iter().for_each(|row| std::fs::remove_file(row).unwrap());
    assert_eq!(figures(&small().run(&data).unwrap()), whole);
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn one_model_that_is_lost_takes_no_other_along() {
    let data = blobs(0, Device::Cpu).unwrap();
    let path = folder("tournament-lost");
    let run = |epochs| {
        let own = tournament(Some(path.clone()));
        Tournament { trainer: Trainer { epochs, ..own.trainer.clone() }, ..own }.run(&data).unwrap()
    };
    let trainings = || -> Vec<PathBuf> {
        std::fs::read_dir(path.join("models")).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    run(5);
    let shorter = trainings();
    let whole = run(6);
    let longer = trainings().into_iter().find(|folder| !shorter.contains(folder)).unwrap();
    // The third model of the first group goes on after five epochs, by an optimiser that remembers nothing but NaN.
    let model = forgetful(&std::fs::read(shorter[0].join("seed2.safetensors")).unwrap());
    std::fs::write(longer.join("seed2.safetensors"), model).unwrap();
    files(&path, "parquet").iter().for_each(|row| std::fs::remove_file(row).unwrap());
    let rest = run(6);
    for (before, after) in whole.rows.iter().zip(&rest.rows) {
        let lost = (after.group, after.n_models) == (0, 3);
        assert_eq!(after.measured.is_err(), lost, "{after:?}");
        if let (Ok(before), Ok(after)) = (&before.measured, &after.measured) {
            assert_eq!(before.test_loss, after.test_loss);
        }
    }
    std::fs::remove_dir_all(path).unwrap();
}

/// A checkpoint whose optimiser's tensors are NaN, without its seal.
fn forgetful(checkpoint: &[u8]) -> Vec<u8> {
    let start = 8 + u64::from_le_bytes(checkpoint[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&checkpoint[8..start]).unwrap();
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
    let (mut bytes, mut tensors) = (checkpoint.to_vec(), 0);
    bytes[8..start].copy_from_slice(text.replace("stemm:sha256", "other:sha256").as_bytes());
    for (_, about) in header.iter().filter(|(name, _)| name.starts_with("stemm:")) {
        let [from, to] = [0, 1].map(|end| start + about["data_offsets"][end].as_u64().unwrap() as usize);
        bytes[from..to].fill(0xff);
        tensors += 1;
    }
    assert!(tensors > 0);
    bytes
}

/// Fails for three models until a file is there.
#[derive(Clone, Debug)]
struct Fails(PathBuf);

impl Aligner for Fails {
    fn name(&self) -> &str {
        "fails"
    }

    fn align(&self, models: &[Model], _data: &Splits) -> stemm::Result<Alignment> {
        match models.len() == 3 && !self.0.exists() {
            true => Err(Error::Permutation { reason: "on purpose".into() }),
            false => Alignment::naive(models),
        }
    }

    fn with(&self, _seed: u64, _progress: Progress) -> Method {
        Method::own(self.clone())
    }
}

#[test]
fn a_cell_that_fails_has_a_row_with_its_error_and_is_tried_again() {
    let path = folder("tournament-fails");
    let mended = std::env::temp_dir().join(format!("stemm-mended-{}", std::process::id()));
    let _ = std::fs::remove_file(&mended);
    let run = || {
        let methods = vec![Naive.into(), Method::own(Fails(mended.clone()))];
        let tournament = Tournament { methods, groups: 2, seeds: vec![0], ..tournament(Some(path.clone())) };
        tournament.run(&blobs(0, Device::Cpu).unwrap()).unwrap()
    };
    let broken = run();
    let failed = |verdicts: &Verdicts| verdicts.rows.iter().filter(|row| row.measured.is_err()).count();
    assert_eq!((broken.rows.len(), failed(&broken)), (2 * 2 * 2 * 2, 2 * 2));
    let error = broken.rows.iter().find_map(|row| row.measured.clone().err()).unwrap();
    assert!(error.contains("on purpose"), "{error}");
    let summary = broken.summary("naive").unwrap();
    let failed_column: Vec<u64> = summary.column("failed").unwrap().u64().unwrap().iter().flatten().collect();
    assert_eq!(failed_column.iter().sum::<u64>(), 4);
    assert_eq!(files(&path, "failed").len(), 4);
    std::fs::write(&mended, "").unwrap();
    assert_eq!(failed(&run()), 0);
    assert!(files(&path, "failed").is_empty(), "errors of earlier tries");
    std::fs::remove_dir_all(path).unwrap();
}

/// A method that is another one once it has a seed.
#[derive(Debug)]
struct Unswayed;

impl Aligner for Unswayed {
    fn name(&self) -> &str {
        "unswayed"
    }

    fn align(&self, models: &[Model], data: &Splits) -> Result<Alignment, Error> {
        Naive.align(models, data)
    }

    fn with(&self, _: u64, _: Progress) -> Method {
        Naive.into()
    }
}

#[test]
fn a_method_of_ones_own_takes_seeds_as_it_likes() {
    let methods = vec![Method::own(Unswayed)];
    let verdicts = Tournament { methods, seeds: vec![0], ..tournament(None) }.run(&blobs(0, Device::Cpu).unwrap());
    assert!(verdicts.unwrap().rows.iter().all(|row| row.measured.is_ok()));
}

#[test]
fn models_that_cannot_be_trained_are_rows_with_the_reason() {
    let trainer = Trainer { learning_rate: 1e38, ..tournament(None).trainer };
    let verdicts = Tournament { trainer, ..tournament(None) }.run(&blobs(0, Device::Cpu).unwrap()).unwrap();
    assert_eq!(verdicts.rows.len(), 48);
    assert!(verdicts.rows.iter().all(|row| row.measured.as_ref().is_err_and(|reason| reason.contains("loss"))));
    let summary = verdicts.summary("naive").unwrap();
    assert_eq!(summary.column("test_loss_nats").unwrap().null_count(), summary.height());
}

#[test]
fn only_groups_are_repeats_and_tests_are_corrected_for_their_number() {
    // By hand: seeds are averaged within their group.
    let loss = |method: &str, group: usize, seed: u64| match method {
        "a" => [1.0, 1.2, 1.4][group],
        "b" => [1.1, 1.2, 1.6][group] + if seed == 0 { 0.05 } else { -0.05 },
        _ => [2.0, 2.3, 2.4][group],
    };
    let mut verdicts = tournament(None).run(&blobs(0, Device::Cpu).unwrap()).unwrap();
    let like = verdicts.rows[0].clone();
    verdicts.rows.clear();
    for method in ["a", "b", "c"] {
        for group in 0..3 {
            for seed in 0..2 {
                let measured = like.measured.clone().map(|own| Measured {
                    test_loss: loss(method, group, seed),
                    models_loss: 0.5,
                    ..own
                });
                verdicts.rows.push(Row { method: method.into(), group, seed, n_models: 2, measured, ..like.clone() });
            }
        }
    }
    let table = verdicts.summary("a").unwrap();
    let column = |name: &str| table.column(name).unwrap().f64().unwrap().iter().collect::<Vec<_>>();
    let near =
        |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?} {expected}");
    near(column("test_loss_nats")[1], 1.3);
    near(column("excess_nats")[0], 0.7);
    near(column("test_loss_error")[0], (0.04f64 / 3.0).sqrt());
    // b - a: 0.1, 0, 0.2: mean 0.1, s = 0.1, error 0.1 / sqrt 3, t = sqrt 3 with two degrees of freedom.
    near(column("difference_nats")[1], 0.1);
    near(column("difference_error")[1], 0.1 / 3f64.sqrt());
    let p = column("p_value");
    assert!((p[1].unwrap() - 0.225_403).abs() < 1e-5, "{p:?}"); // 1 - t / sqrt(t² + 2), twice over
    assert_eq!(p[0], None);
    let corrected = column("p_holm");
    near(corrected[1], p[1].unwrap().max(2.0 * p[2].unwrap()));
    near(corrected[2], 2.0 * p[2].unwrap());
    let groups: Vec<u64> = table.column("groups").unwrap().u64().unwrap().iter().flatten().collect();
    assert_eq!(groups, [3, 3, 3]);
    let text = verdicts.chart().svg().unwrap();
    assert_eq!(["a", "b", "c"].map(|method| text.contains(&format!("\n{method}\n"))), [true; 3], "{text}");
    assert!(matches!(verdicts.summary("d"), Err(Error::Setting { setting: "baseline", .. })));
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let data = blobs(0, Device::Cpu).unwrap();
    for (name, wrong) in [
        ("groups", Tournament { groups: 0, ..tournament(None) }),
        ("counts", Tournament { counts: vec![], ..tournament(None) }),
        ("counts", Tournament { counts: vec![3, 0], ..tournament(None) }),
        ("seeds", Tournament { seeds: vec![], ..tournament(None) }),
        ("methods", Tournament { methods: vec![], ..tournament(None) }),
        ("methods", Tournament { methods: vec![Naive.into(), Naive.into()], ..tournament(None) }),
        ("merges", Tournament { merges: vec![Merging::Mean, Merging::Mean], ..tournament(None) }),
        ("barrier_points", Tournament { barrier_points: 1, ..tournament(None) }),
    ] {
        let error = wrong.run(&data).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting, .. } if *setting == name), "{name}: {error}");
    }
    let path = folder("tournament-foreign");
    save_parquet(&data.frame(), path.join("foreign.parquet")).unwrap();
    let error = tournament(Some(path.clone())).run(&data).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { format: "table of experiments", .. }), "{error}");
    std::fs::remove_dir_all(path).unwrap();
}
