//! What holds for every chart, whatever its numbers and names are.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::label::TOP;
use super::*;

/// Numbers that have broken charts: neighbours, extremes, infinities, and any other.
fn nasty() -> impl Strategy<Value = f64> {
    let known = [
        253.290596207403,
        253.290596207403_f64.next_up(),
        0.0,
        -0.0,
        1e308,
        -1e308,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        5e-324,
        1e-300,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1.0,
        9_007_199_254_740_993.0,
    ];
    prop_oneof![proptest::sample::select(known.to_vec()), any::<f64>(), -3.0..3.0]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z ]{1,12}",
        any::<String>(),
        Just("weight matching with long words ".repeat(40)),
        Just("\u{0}\u{fffe}</text>\"&".to_owned()),
    ]
}

fn series() -> impl Strategy<Value = Series> {
    let points = proptest::collection::vec((nasty(), nasty()), 0..12);
    let band = proptest::collection::vec((nasty(), nasty()), 0..14);
    (name(), points, band, proptest::option::of(0..100_usize), any::<[bool; 3]>()).prop_map(
        |(name, points, band, color, [dashed, dots, with_band])| {
            let with = |series: Series, wanted: bool, change: &dyn Fn(Series) -> Series| match wanted {
                true => change(series),
                false => series,
            };
            let series = with(Series::new(name, points), color.is_some(), &|series| series.color(color.unwrap_or(0)));
            let series = with(series, with_band, &|series| series.band(band.clone()));
            with(with(series, dashed, &Series::dashed), !dots, &Series::without_dots)
        },
    )
}

fn lines() -> impl Strategy<Value = Chart> {
    (name(), proptest::collection::vec(series(), 0..40), any::<[bool; 2]>()).prop_map(
        |(name, series, [log_x, log_y])| {
            let lines = Lines::new(name.clone(), name.clone(), name).series(series);
            let lines = if log_x { lines.log_x() } else { lines };
            if log_y { lines.log_y().into() } else { lines.into() }
        },
    )
}

fn bars() -> impl Strategy<Value = Chart> {
    let bars = prop_oneof![
        proptest::collection::vec((name(), nasty(), nasty()), 0..20),
        proptest::collection::vec((name(), nasty(), nasty()), 550..601),
    ];
    (name(), bars).prop_map(|(name, bars)| Bars::new(name.clone(), name, bars).into())
}

fn heatmap() -> impl Strategy<Value = Chart> {
    (0..14_usize, proptest::option::of(nasty())).prop_flat_map(|(n, highest)| {
        let names = proptest::collection::vec(name(), n);
        let values = proptest::collection::vec(proptest::collection::vec(proptest::option::of(nasty()), n), n);
        (name(), names, values).prop_map(move |(title, names, values)| {
            let map = Heatmap::new(title, names, values);
            highest.map_or(map.clone(), |highest| map.highest(highest)).into()
        })
    })
}

fn group_map() -> impl Strategy<Value = Chart> {
    (1..200_usize).prop_flat_map(|groups| {
        let some = || proptest::collection::vec(0..groups, 0..4);
        let rows = proptest::collection::vec((name(), some(), some()), 0..60);
        let sizes = proptest::collection::vec(any::<usize>(), groups);
        (name(), sizes, rows).prop_map(|(title, sizes, rows)| GroupMap::new(title, sizes, rows).into())
    })
}

fn contours() -> impl Strategy<Value = Chart> {
    let places = || proptest::collection::vec((nasty(), nasty()), 0..10);
    let marks = || proptest::collection::vec((name(), (nasty(), nasty())), 0..10);
    // Of two numbers in order: their range may be refused, but not break anything.
    let range = || (nasty(), nasty());
    let plane = (1..9_usize, 1..9_usize).prop_flat_map(move |(columns, rows)| {
        let values = proptest::collection::vec(nasty(), columns * rows);
        (values, range(), range(), name()).prop_map(move |(values, x, y, name)| {
            Contours::plane(name.clone(), (&name, x), (&name, y), columns, values)
        })
    });
    let triangle = (0..7_usize).prop_flat_map(|steps| {
        let rows: Vec<_> = (0..=steps).map(|row| proptest::collection::vec(nasty(), steps + 1 - row)).collect();
        ([name(), name(), name()], rows).prop_map(|(names, values)| Contours::triangle(names[0].clone(), names, values))
    });
    (prop_oneof![plane, triangle], marks(), places())
        .prop_map(|(contours, marks, path)| contours.marks(marks).path(path).into())
}

/// The chart as SVG and as PNG, soon, and small.
fn drawn_well(chart: &Chart) -> Result<(), TestCaseError> {
    let begin = Instant::now();
    let (svg, png) = match (chart.svg(), chart.png()) {
        (Ok(svg), Ok(png)) => (svg, png),
        // A plane between ends that are none is refused, as SVG and as PNG.
        (Err(Error::Setting { setting: "x" | "y", .. }), Err(Error::Setting { .. })) => return Ok(()),
        (svg, png) => return Err(TestCaseError::fail(format!("{:?} {:?}", svg.err(), png.err()))),
    };
    prop_assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && png.starts_with(b"\x89PNG"));
    prop_assert!(!svg.contains(['\u{0}', '\u{fffe}']), "no XML");
    prop_assert!(svg.len() < 300_000, "{} bytes of SVG", svg.len());
    prop_assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_chart_is_drawn_soon_and_small_whatever_its_numbers(
        chart in prop_oneof![lines(), bars(), heatmap(), group_map(), contours()],
    ) {
        drawn_well(&chart)?;
        drawn_well(&chart.clone().beside(Lines::new("", "", "").into()))?;
    }
}

#[test]
fn two_values_one_float_apart_and_the_largest_are_drawn() {
    let x = 253.290596207403_f64;
    for values in [[x, x.next_up()], [-1e308, 1e308], [f64::NAN; 2], [f64::INFINITY, 1.0], [0.0, 5e-324], [0.0; 2]] {
        let series =
            || Series::new("", values.map(|value| (value, value)).to_vec()).band(values.map(|v| (v, x)).to_vec());
        let bars = values.map(|value| (String::new(), value, value)).to_vec();
        let matrix = vec![values.map(Some).to_vec(); 2];
        let charts: [Chart; 5] = [
            Lines::new("", "", "").series([series()]).into(),
            Lines::new("", "", "").series([series()]).log_x().log_y().into(),
            Bars::new("", "", bars).into(),
            Heatmap::new("", vec![String::new(); 2], matrix).into(),
            Contours::plane("", ("", (0.0, 1.0)), ("", (0.0, 1.0)), 2, values.to_vec()).into(),
        ];
        for chart in charts {
            drawn_well(&chart).unwrap_or_else(|error| panic!("{values:?}: {error}"));
        }
    }
}

#[test]
fn a_million_points_make_a_small_picture_with_every_peak() {
    let height = |x: u32| if x == 777_777 { 40.0 } else { f64::from(x % 7) };
    let points = (0..1_000_000).map(|x| (f64::from(x), height(x))).collect();
    let chart: Chart = Lines::new("peak", "x", "y").series([Series::new("", points).dashed()]).into();
    let begin = Instant::now();
    let svg = chart.svg().unwrap();
    assert!(svg.len() < 300_000 && begin.elapsed() < Duration::from_secs(5), "{} {:?}", svg.len(), begin.elapsed());
    let line: Vec<&str> = svg.lines().filter(|line| line.contains("stroke-width=\"2\"")).collect();
    let heights = line.iter().flat_map(|line| line.split("points=\"").nth(1).unwrap().split([' ', '"']));
    let top = heights.filter_map(|point| point.split(',').nth(1)?.parse::<i32>().ok()).min().unwrap();
    assert!(top < 70, "the peak at {top} of the picture's height is lost");
}

/// The pixels of a chart of lines that differ from those of another outside its field.
fn differences_outside(one: &Lines, other: &Lines) -> usize {
    let (left, right, top, bottom) = (60, 745, TOP - 3, 400 - 52 + 3);
    let pixels = |lines: &Lines| {
        let chart = Chart::from(lines.clone());
        image::load_from_memory(&chart.png().unwrap()).unwrap().to_rgb8()
    };
    let (one, other) = (pixels(one), pixels(other));
    let outside = |x: i32, y: i32| x < left || x > right || y < top || y > bottom;
    let differing = one.enumerate_pixels().filter(|&(x, y, pixel)| other.get_pixel(x, y) != pixel);
    differing.filter(|&(x, y, _)| outside(x as i32, y as i32)).count()
}

#[test]
fn nothing_of_a_line_with_sharp_turns_is_drawn_outside_its_field() {
    // The outline of such a line, two pixels wide, has its corners hundreds of pixels away.
    let ends = [(0.0, 0.0), (1000.0, 1.0)];
    for step in [1.0, 2.0, 3.0, 7.0] {
        let turns = (0..140).map(|i| (step * f64::from(i), f64::from(i % 2)));
        let sharp = Series::new("", turns.chain([(1000.0, 1.0)]).collect()).without_dots();
        let calm = Series::new("", ends.to_vec()).without_dots();
        for dashed in [false, true] {
            let lines =
                |series: Series| Lines::new("title", "x", "y").series([if dashed { series.dashed() } else { series }]);
            assert_eq!(differences_outside(&lines(sharp.clone()), &lines(calm.clone())), 0, "{step} {dashed}");
        }
    }
}

#[test]
fn a_path_and_marks_outside_a_plane_are_cut_off() {
    let plane = || Contours::plane("title", ("x", (0.0, 1.0)), ("y", (0.0, 1.0)), 2, vec![0.0, 1.0, 2.0, 3.0]);
    let far = plane().path(vec![(-9.0, 3.0), (0.5, 0.5), (9.0, -1e300)]).marks([("far".to_owned(), (2.0, 2.0))]);
    let pixels = |contours: Contours| image::load_from_memory(&Chart::from(contours).png().unwrap()).unwrap().to_rgb8();
    let (with, without) = (pixels(far), pixels(plane()));
    let differing: Vec<_> = with.enumerate_pixels().filter(|&(x, y, pixel)| without.get_pixel(x, y) != pixel).collect();
    let within = |&(x, y, _): &(u32, u32, _)| (150..600).contains(&x) && (38..352).contains(&y);
    assert!(!differing.is_empty() && differing.iter().all(within));
}

#[test]
fn what_does_not_fit_into_a_legend_or_a_map_is_counted() {
    let series = (0..40).map(|index| Series::new(format!("series {index}"), vec![(0.0, 0.0), (1.0, f64::from(index))]));
    let svg = Chart::from(Lines::new("many", "x", "y").series(series)).svg().unwrap();
    let shown = (0..40).filter(|index| svg.contains(&format!("\nseries {index}\n"))).count();
    assert!(shown > 10 && svg.contains(&format!("and {} more", 40 - shown)), "{shown}");
    let rows = (0..450).map(|row| (format!("layer {row}"), vec![0], vec![])).collect();
    let svg = Chart::from(GroupMap::new("deep", vec![8; 200], rows)).svg().unwrap();
    let layers = (0..450).filter(|row| svg.contains(&format!("\nlayer {row}\n"))).count();
    assert!(layers > 300 && svg.contains(&format!("and {} more layers", 450 - layers)), "{layers}");
    let groups = svg.matches("\n8\n").count();
    assert!(groups > 30 && svg.contains(&format!("and {} more\n", 200 - groups)), "{groups}");
}

#[test]
fn a_value_that_is_not_finite_is_named_in_its_cell_and_its_bar() {
    let map = |value| {
        Heatmap::new("", vec!["a".into(), "b".into()], vec![vec![value, Some(1.0)], vec![Some(-0.5), Some(2.0)]])
    };
    let svg = |chart: Chart| chart.svg().unwrap();
    let ground = "#FFB000";
    for (value, text) in [(f64::NAN, "\nNaN\n"), (f64::INFINITY, "\ninf\n"), (f64::NEG_INFINITY, "\n-inf\n")] {
        let bars = Bars::new("", "", vec![("a".into(), value, 0.0)]);
        // The map explains its ground besides.
        for (chart, grounds) in [(map(Some(value)).into(), 2), (bars.into(), 1)] {
            let svg = svg(chart);
            assert!(svg.contains(text) && svg.matches(ground).count() == grounds, "{text}");
        }
    }
    let without = svg(map(None).into());
    assert!(!without.contains(ground) && without.contains("\n-0.50\n"), "values below 0 are readable");
    let plane = |value| Contours::plane("", ("", (0.0, 1.0)), ("", (0.0, 1.0)), 2, vec![value, 1.0, 2.0, 3.0]);
    assert!(svg(plane(f64::NAN).into()).contains(ground) && !svg(plane(0.0).into()).contains(ground));
}

#[test]
fn tables_that_are_not_rectangular_are_refused_by_name() {
    let corners = || ["a".to_owned(), "b".to_owned(), "c".to_owned()];
    let plane = |columns, values: usize| -> Chart {
        Contours::plane("", ("", (0.0, 1.0)), ("", (0.0, 1.0)), columns, vec![1.0; values]).into()
    };
    let triangle = |rows: Vec<Vec<f64>>| -> Chart { Contours::triangle("", corners(), rows).into() };
    let map = |names: usize, values| -> Chart { Heatmap::new("", vec![String::new(); names], values).into() };
    let refused: [(&str, Chart); 14] = [
        ("columns", plane(0, 4)),
        ("columns", plane(0, 0)),
        ("columns", plane(3, 4)),
        ("columns", plane(2, 0)),
        ("values", triangle(vec![])),
        ("values", triangle(vec![vec![]])),
        ("values", triangle(vec![vec![1.0, 2.0], vec![1.0, 2.0]])),
        ("values", map(2, vec![vec![None; 2]])),
        ("values", map(2, vec![vec![None; 2], vec![None; 3]])),
        ("values", map(0, vec![vec![]])),
        ("names", map(101, vec![vec![None; 101]; 101])),
        ("rows", GroupMap::new("", vec![1], vec![(String::new(), vec![usize::MAX], vec![])]).into()),
        ("bars", Bars::new("", "", vec![(String::new(), 1.0, 0.0); 601]).into()),
        ("x", Contours::plane("", ("", (1.0, 1.0)), ("", (0.0, 1.0)), 1, vec![1.0]).into()),
    ];
    for (name, chart) in refused {
        for error in [chart.svg().err(), chart.png().err()] {
            assert!(matches!(error, Some(Error::Setting { setting, .. }) if setting == name), "{name}: {error:?}");
        }
    }
    for chart in [plane(1, 1), plane(1, 3), plane(3, 3), triangle(vec![vec![1.0]]), map(0, vec![])] {
        assert!(chart.svg().is_ok() && chart.png().is_ok());
    }
    let many = (0..60).fold(plane(1, 1), |chart, _| chart.beside(plane(1, 1)));
    assert!(matches!(many.svg(), Err(Error::Setting { setting: "panels", .. })));
}

/// Writes the pictures to look at: `cargo test --lib pictures -- --ignored`, then see /tmp/stemm-charts.
#[test]
#[ignore = "for people's eyes"]
fn pictures() {
    let wave = |k: f64| (0..30).map(|i| (f64::from(i), (f64::from(i) / 5.0 + k).sin() + k)).collect::<Vec<_>>();
    let around = |points: &[(f64, f64)]| {
        points.iter().map(|p| if p.0 == 10.0 { (f64::NAN, 0.0) } else { (p.1 - 0.3, p.1 + 0.3) }).collect()
    };
    let band = |k: f64| Series::new(format!("method {k}"), wave(k)).band(around(&wave(k)));
    let many =
        |n: usize| (0..n).map(move |i| Series::new(format!("model {i} of many, held out"), wave(i as f64 / 3.0)));
    let zigzag: Vec<_> = (0..300).map(|i| (f64::from(i), f64::from(i % 2 * (i % 37)))).collect();
    let long = "Loss between pairs of models after weight matching, ".repeat(4);
    let lines = |title: &str| Lines::new(title, "epoch", "loss (nats)");
    let bars =
        |n: usize| (0..n).map(|i| (format!("weight matching {i}"), (i as f64 - 2.0) / 3.0, 0.1)).collect::<Vec<_>>();
    let map = |n: usize, name: &str| {
        let value = |row: usize, column: usize| match (row, column) {
            (1, 2) => Some(f64::NAN),
            (2, 1) => Some(f64::INFINITY),
            (row, column) if row == column => None,
            (row, column) => Some((row as f64 - column as f64) / 4.0),
        };
        let values = (0..n).map(|row| (0..n).map(|column| value(row, column)).collect()).collect();
        Heatmap::new("Loss barrier (nats)", (0..n).map(|i| format!("{name} {i}")).collect(), values)
    };
    let field = |at_nan: bool| {
        (0..400)
            .map(|i| {
                let (x, y) = (f64::from(i % 20) / 10.0 - 1.0, f64::from(i / 20) / 10.0 - 1.0);
                if at_nan && x > 0.6 && y > 0.5 { f64::NAN } else { 0.1 + x * x + 3.0 * y * y }
            })
            .collect::<Vec<_>>()
    };
    let marks = [("model 0", (0.0, 0.0)), ("model 1", (0.05, 0.05)), ("merged", (0.5, 0.0)), ("out", (3.0, 0.0))];
    let marks = marks.map(|(name, place)| (name.to_owned(), place));
    let plane = |x: (f64, f64), nan: bool| {
        Contours::plane("Loss (nats)", ("along model 1 - model 0", x), ("across", (-1.0, 1.0)), 20, field(nan))
            .marks(marks.clone())
            .path(vec![(-0.5, -0.5), (0.5, 0.4), (4.0, 0.5)])
    };
    let triangle = (0..9).map(|r| (0..9 - r).map(|c| f64::from(r * c) + 0.1).collect()).collect();
    let groups = |n: usize, rows: usize| {
        let rows = (0..rows).map(|r| (format!("layer{r}.0.conv2"), vec![r % n], vec![(r + 1) % n])).collect();
        GroupMap::new("Permutation groups", (0..n).map(|g| 64 << (g % 6)).collect(), rows)
    };
    let charts: Vec<(&str, Chart)> = vec![
        ("bands", lines("Lines with bands").series((0..4).map(|k| band(f64::from(k)))).into()),
        ("forty", lines(&long).series(many(40)).into()),
        ("twelve", lines("Twelve").series(many(12)).log_x().into()),
        ("zigzag", lines("Zigzag").series([Series::new("", zigzag.clone())]).into()),
        ("zigzag_dashed", lines("Zigzag").series([Series::new("", zigzag).dashed()]).into()),
        (
            "neighbours",
            lines("Neighbours").series([Series::new("", vec![(0.0, 253.2905962), (1.0, 253.2905967)])]).into(),
        ),
        ("huge", lines("Huge").series([Series::new("", vec![(-1e308, -1e308), (1e308, 1e308)])]).into()),
        (
            "log",
            lines("Log")
                .series([Series::new("", vec![(0.0, 1e-9), (1.0, 3.0)]).band(vec![(-1.0, 1e-3), (1.0, 9.0)])])
                .log_y()
                .into(),
        ),
        ("bars", Bars::new("Bars", "test loss (nats)", bars(6)).into()),
        ("bars_many", Bars::new("Bars", "test loss (nats)", bars(200)).into()),
        ("bars_nan", Bars::new("Bars", "loss", vec![("a".into(), f64::NAN, 0.1), ("b".into(), 0.4, f64::NAN)]).into()),
        ("map", map(5, "model").into()),
        ("map_long", map(14, "weight matching of many").into()),
        ("map_many", map(80, "model").into()),
        ("plane", plane((-1.0, 1.0), true).into()),
        ("plane_wide", plane((-30.0, 30.0), false).into()),
        (
            "triangle",
            Contours::triangle("Triangle", ["model 0".into(), "a model of a long name".into(), "c".into()], triangle)
                .into(),
        ),
        ("groups", groups(8, 12).into()),
        ("groups_many", groups(120, 30).into()),
        (
            "beside",
            Chart::from(groups(20, 30))
                .beside(map(6, "model").into())
                .beside(lines(&long).series(many(9)).into())
                .beside(plane((-1.0, 1.0), true).into()),
        ),
    ];
    for (name, chart) in charts {
        chart.save(format!("/tmp/stemm-charts/{name}.png")).unwrap();
        chart.save(format!("/tmp/stemm-charts/{name}.svg")).unwrap();
    }
}
