//! How long it takes to refuse a token must not depend on how much of it is right, or one could be
//! guessed byte by byte. In the manner of dudect (Reparaz, Balasch and Verbauwhede, "Dude, is my
//! code constant time?"): Welch's t-test on the times of two classes of tokens, drawn at random.
//! To show that it would tell, `==` must fail it.

use std::hint::black_box;
use std::iter;
use std::time::Instant;

#[allow(dead_code)]
#[path = "../src/refusal.rs"]
mod refusal;
#[allow(dead_code)]
#[path = "../src/token.rs"]
mod token;

/// Long, so that it counts how many bytes are compared.
const LEN: usize = 4096;
const SAMPLES: usize = 20_000;
/// Of equal times, t is above 5 once in two million tests.
const THRESHOLD: f64 = 10.0;
/// The machine may do something else meanwhile: one quiet attempt is enough.
const ATTEMPTS: usize = 5;

#[test]
fn the_time_does_not_tell_how_much_of_a_token_is_right() {
    let right = "x".repeat(LEN);
    let tokens = [right.as_str(), "another"];
    let text = tokens.join("\n");
    let parsed: Vec<_> = token::tokens(&text).collect();
    let ours = |given: &str| token::find(parsed.iter().copied(), given).is_some();
    let naive = |given: &str| tokens.contains(&given);
    // What their bytes are, but for the last, and the last.
    let (wrong, nearly_right, right) = (*b"yy", *b"xy", *b"xx");
    let mut attempts = Vec::new();
    for _ in 0..ATTEMPTS {
        let ours = [nearly_right, right].map(|class| welch(ours, [wrong, class]));
        let naive = welch(naive, [wrong, nearly_right]);
        attempts.push((ours, naive));
        if ours.iter().all(|t| *t < THRESHOLD) && naive > THRESHOLD {
            return;
        }
    }
    panic!(
        "t of ours, for a token that is nearly right and for one that is, and of ==: {attempts:.1?}"
    );
}

/// Welch's t of the times that it takes to compare tokens of two classes.
fn welch(compare: impl Fn(&str) -> bool, classes: [[u8; 2]; 2]) -> f64 {
    // The same memory for both.
    let mut given = vec![0; LEN];
    let sample = || {
        let class = usize::from(fastrand::bool());
        let [most, last] = classes[class];
        given.fill(most);
        given[LEN - 1] = last;
        let given = std::str::from_utf8(&given).expect("ASCII");
        let begin = Instant::now();
        black_box(compare(black_box(given)));
        (class, begin.elapsed().as_secs_f64())
    };
    let mut samples: Vec<_> = iter::repeat_with(sample).take(SAMPLES).collect();
    // The slowest were held up by something else.
    samples.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    samples.truncate(SAMPLES * 3 / 4);
    let [one, other] = [0, 1].map(|class| {
        let times = samples.iter().filter(|sample| sample.0 == class).map(|sample| sample.1);
        let n: f64 = times.clone().map(|_| 1.0).sum();
        let mean = times.clone().sum::<f64>() / n;
        let variance = times.map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, variance / n)
    });
    (one.0 - other.0).abs() / (one.1 + other.1).sqrt()
}
