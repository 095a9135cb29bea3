#![allow(clippy::unwrap_used)]
use super::*;

/// `torch.optim.AdamW` by its definition, in float64, with a learning rate and a decay for each value.
fn reference(start: &[f64], gradients: &[Vec<f64>], rates: &[f64], decays: &[f64], clip: f64) -> Vec<f64> {
    let mut weights = start.to_vec();
    let (mut first, mut second) = (vec![0.0; start.len()], vec![0.0; start.len()]);
    for (index, gradient) in gradients.iter().enumerate() {
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let share = if clip > 0.0 {
            (clip / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        let step = index as i32 + 1;
        for place in 0..weights.len() {
            let (g, lr) = (gradient[place] * share, rates[place]);
            weights[place] *= 1.0 - lr * decays[place];
            first[place] = 0.9 * first[place] + 0.1 * g;
            second[place] = 0.999 * second[place] + 0.001 * g * g;
            let (c1, c2) = (1.0 - 0.9f64.powi(step), 1.0 - 0.999f64.powi(step));
            weights[place] -= lr / c1 * first[place] / ((second[place] / c2).sqrt() + 1e-8);
        }
    }
    weights
}

fn range(length: i64, lr_ratio: f64, weight_decay: f64) -> Range {
    Range {
        length,
        lr_ratio,
        weight_decay,
    }
}

fn step(optimizer: &mut AdamW, gradient: &[f32], learning_rate: f64, clip: f64) -> f64 {
    let gradient = Tensor::from_slice(gradient);
    let norm = norm(&gradient).unwrap().double_value(&[]);
    optimizer.step(&gradient, norm, learning_rate, clip).unwrap();
    norm
}

fn gradients() -> Vec<Vec<f32>> {
    (0..5)
        .map(|step| vec![0.3 - step as f32, 1e-3, -2.0, 0.5 * step as f32])
        .collect()
}

fn compare(ranges: &[Range], clip: f64) {
    let start = [1.0f32, -2.0, 3.0, 0.5];
    let flat = Tensor::from_slice(&start);
    let mut optimizer = AdamW::new(&flat, ranges.to_vec()).unwrap();
    for gradient in gradients() {
        step(&mut optimizer, &gradient, 0.01, clip);
    }
    let spread = |value: fn(&Range) -> f64| -> Vec<f64> {
        let each = |range: &Range| vec![value(range); range.length as usize];
        ranges.iter().flat_map(each).collect()
    };
    let rates: Vec<f64> = spread(|range| range.lr_ratio)
        .iter()
        .map(|ratio| 0.01 * ratio)
        .collect();
    let wide: Vec<Vec<f64>> = gradients()
        .iter()
        .map(|gradient| gradient.iter().map(|g| f64::from(*g)).collect())
        .collect();
    let decays = spread(|range| range.weight_decay);
    let wanted = reference(&start.map(f64::from), &wide, &rates, &decays, clip);
    let found = Vec::<f32>::try_from(flat).unwrap();
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((f64::from(*found) - wanted).abs() < 2e-6, "{found} {wanted}");
    }
}

#[test]
fn equals_torch() {
    for (decay, clip) in [(0.0, 0.0), (0.1, 0.0), (0.1, 1.0)] {
        compare(&[range(4, 1.0, decay)], clip);
    }
}

#[test]
fn ranges_have_rates_and_decays_of_their_own() {
    compare(&[range(2, 1.0, 0.1), range(2, 16.0, 0.1)], 1.0);
    compare(&[range(3, 1.0, 0.5), range(1, 1.0, 0.0)], 0.0);
}

#[test]
fn the_norm_is_of_all() {
    let flat = Tensor::from_slice(&[1.0f32, 1.0, 1.0, 1.0]);
    let mut optimizer = AdamW::new(&flat, vec![range(2, 1.0, 0.0), range(2, 2.0, 0.0)]).unwrap();
    assert_eq!(optimizer.size(), 4);
    let norm = step(&mut optimizer, &[3.0, 0.0, 0.0, 4.0], 0.1, 0.0);
    assert!((norm - 5.0).abs() < 1e-9);
    assert_eq!(flat.double_value(&[1]), 1.0);
}

#[test]
fn restored_state_goes_on_as_before() {
    let run = |break_at: Option<usize>| {
        let mut flat = Tensor::from_slice(&[1.0f32, 2.0]);
        let mut optimizer = AdamW::new(&flat, vec![range(2, 1.0, 0.1)]).unwrap();
        for index in 0..6 {
            if break_at == Some(index) {
                let moments = optimizer.moments();
                flat = flat.copy();
                optimizer = AdamW::new(&flat, vec![range(2, 1.0, 0.1)]).unwrap();
                optimizer.restore(&moments).unwrap();
            }
            step(&mut optimizer, &[0.1 * index as f32, -1.0], 0.01, 1.0);
        }
        Vec::<f32>::try_from(flat).unwrap()
    };
    assert_eq!(run(None), run(Some(3)));
}
