//! Differences between two groups of requests, with 95 % confidence intervals: Wilson and Newcombe for shares, Welch
//! for means.

/// 97.5th percentile of the normal distribution.
const NORMAL_975: f64 = 1.959_963_984_540_054;

/// A figure with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// How many have the property.
    pub hits: u64,
    /// Of how many.
    pub total: u64,
}

/// What is known of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their variance, with n - 1 below the line.
    pub variance: f64,
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts of requests stay far below 2^53"
)]
const fn real(count: u64) -> f64 {
    count as f64
}

impl Share {
    /// The share with Wilson's score interval; none of nothing.
    #[must_use]
    pub fn wilson(self) -> Option<Estimate> {
        if self.total == 0 {
            return None;
        }
        let n = real(self.total);
        let p = real(self.hits) / n;
        let z2 = NORMAL_975 * NORMAL_975;
        let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = NORMAL_975 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        Some(Estimate {
            value: p,
            low: (middle - half).max(0.0),
            high: (middle + half).min(1.0),
        })
    }

    /// This share less `other`, with Newcombe's interval (method 10); none where either is of nothing.
    #[must_use]
    pub fn less(self, other: Self) -> Option<Estimate> {
        let (a, b) = (self.wilson()?, other.wilson()?);
        let value = a.value - b.value;
        let low = value - ((a.value - a.low).powi(2) + (b.high - b.value).powi(2)).sqrt();
        let high = value + ((a.high - a.value).powi(2) + (b.value - b.low).powi(2)).sqrt();
        Some(Estimate { value, low, high })
    }
}

impl Sample {
    /// This mean less `other`'s, with Welch's interval; none where either has fewer than two values.
    #[must_use]
    pub fn less(self, other: Self) -> Option<Estimate> {
        if self.count < 2 || other.count < 2 {
            return None;
        }
        let value = self.mean - other.mean;
        let (a, b) = (
            self.variance / real(self.count),
            other.variance / real(other.count),
        );
        let error = (a + b).sqrt();
        if error <= 0.0 {
            return Some(Estimate {
                value,
                low: value,
                high: value,
            });
        }
        let freedom =
            (a + b).powi(2) / (a * a / (real(self.count) - 1.0) + b * b / (real(other.count) - 1.0));
        let half = student_975(freedom) * error;
        Some(Estimate {
            value,
            low: value - half,
            high: value + half,
        })
    }
}

/// 97.5th percentile of Student's distribution with this many degrees of freedom, by bisection.
fn student_975(freedom: f64) -> f64 {
    let (mut low, mut high) = (1.0, 100.0);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        // P(T > t) is half the regularised incomplete beta function at v / (v + t²).
        let above = 0.5 * incomplete_beta(freedom / (freedom + middle * middle), 0.5 * freedom, 0.5);
        if above > 0.025 {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function, by its continued fraction (Lentz's method).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for step in 1..=300 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / away_from_zero(1.0 + even * d);
        c = away_from_zero(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / away_from_zero(1.0 + odd * d);
        c = away_from_zero(1.0 + odd / c);
        let change = d * c;
        fraction *= change;
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// Lanczos' approximation of the logarithm of the gamma function, for positive arguments.
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        return (std::f64::consts::PI / (std::f64::consts::PI * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let t = x + 7.5;
    let sum = COEFFICIENTS
        .iter()
        .enumerate()
        .skip(1)
        .fold(COEFFICIENTS[0], |sum, (place, coefficient)| {
            sum + coefficient / (x + real(place as u64))
        });
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 5e-5, "{found} is not {wanted}");
    }

    #[test]
    fn students_percentiles_agree_with_the_tables() {
        for (freedom, wanted) in [
            (1.0, 12.706_20),
            (2.0, 4.302_65),
            (3.0, 3.182_45),
            (10.0, 2.228_14),
            (30.0, 2.042_27),
            (120.0, 1.979_93),
            (1e6, 1.959_97),
        ] {
            near(student_975(freedom), wanted);
        }
    }

    /// Newcombe (1998), "Interval estimation for the difference between independent proportions", table II: 56/70 and
    /// 48/80, 9/10 and 3/10, 10/10 and 0/20, method 10.
    #[test]
    fn shares_differ_as_newcombe_says() {
        for ((a, n), (b, m), low, high) in [
            ((56, 70), (48, 80), 0.0524, 0.3339),
            ((9, 10), (3, 10), 0.1705, 0.8090),
            ((10, 10), (0, 20), 0.6791, 1.0),
        ] {
            let share = |hits, total| Share { hits, total };
            let found = share(a, n).less(share(b, m)).unwrap();
            near(found.low, low);
            near(found.high, high);
        }
        let nothing = Share { hits: 0, total: 0 };
        assert_eq!(nothing.less(nothing), None);
    }

    /// Newcombe (1998), "Two-sided confidence intervals for the single proportion": 81/263, 15/148, 0/20.
    #[test]
    fn wilsons_interval_agrees_with_the_literature() {
        for (hits, total, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
        ] {
            let found = Share { hits, total }.wilson().unwrap();
            near(found.low, low);
            near(found.high, high);
        }
    }

    /// Two samples whose interval follows from t(0.975, 19.19) by hand.
    #[test]
    fn means_differ_as_welch_says() {
        let a = Sample {
            count: 10,
            mean: 5.0,
            variance: 4.0,
        };
        let b = Sample {
            count: 12,
            mean: 3.0,
            variance: 9.0,
        };
        let found = a.less(b).unwrap();
        let error = (0.4_f64 + 0.75).sqrt();
        let freedom = 1.15_f64.powi(2) / (0.16 / 9.0 + 0.5625 / 11.0);
        near(found.value, 2.0);
        near((found.high - found.low) / 2.0, student_975(freedom) * error);
        assert!((19.0..20.0).contains(&freedom) && (2.085..2.095).contains(&student_975(freedom)));
        let single = Sample { count: 1, ..a };
        assert_eq!(single.less(b), None);
        let flat = Sample { variance: 0.0, ..a };
        assert_eq!(flat.less(flat).unwrap().high, 0.0);
    }
}
