#![allow(clippy::unwrap_used)]
use super::*;

/// `torch.optim.AdamW` by its definition, in float64.
fn reference(start: &[f64], gradients: &[Vec<f64>], lr: f64, decay: f64, clip: f64) -> Vec<f64> {
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
            let g = gradient[place] * share;
            weights[place] *= 1.0 - lr * decay;
            first[place] = 0.9 * first[place] + 0.1 * g;
            second[place] = 0.999 * second[place] + 0.001 * g * g;
            let (c1, c2) = (1.0 - 0.9f64.powi(step), 1.0 - 0.999f64.powi(step));
            weights[place] -= lr / c1 * first[place] / ((second[place] / c2).sqrt() + 1e-8);
        }
    }
    weights
}

fn leaf(values: &[f32], size: &[i64]) -> Tensor {
    Tensor::from_slice(values).reshape(size).set_requires_grad(true)
}

/// Gives `parameter` the gradient `values`.
fn push_gradient(parameter: &Tensor, values: &[f32]) {
    let gradient = Tensor::from_slice(values).reshape(parameter.size());
    (parameter * gradient).sum(Kind::Float).backward();
}

#[test]
fn equals_torch() {
    let gradients: Vec<Vec<f32>> = (0..5)
        .map(|step| vec![0.3 - step as f32, 1e-3, -2.0, 0.5 * step as f32])
        .collect();
    for (decay, clip) in [(0.0, 0.0), (0.1, 0.0), (0.1, 1.0)] {
        let weights = leaf(&[1.0, -2.0, 3.0, 0.5], &[2, 2]);
        let mut optimizer = AdamW::new(&[&weights], decay).unwrap();
        for gradient in &gradients {
            push_gradient(&weights, gradient);
            let _ = optimizer.step(0.01, clip).unwrap();
        }
        let wide: Vec<Vec<f64>> = gradients
            .iter()
            .map(|gradient| gradient.iter().map(|g| f64::from(*g)).collect())
            .collect();
        let wanted = reference(&[1.0, -2.0, 3.0, 0.5], &wide, 0.01, decay, clip);
        let found = Vec::<f32>::try_from(weights.detach().reshape([-1])).unwrap();
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((f64::from(*found) - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }
}

#[test]
fn vectors_are_not_decayed_and_norm_is_of_all() {
    let vector = leaf(&[1.0, 1.0], &[2]);
    let matrix = leaf(&[1.0, 1.0], &[1, 2]);
    let mut optimizer = AdamW::new(&[&vector, &matrix], 0.5).unwrap();
    assert_eq!(optimizer.size(), 4);
    push_gradient(&vector, &[3.0, 0.0]);
    push_gradient(&matrix, &[0.0, 4.0]);
    let norm = optimizer.step(0.1, 0.0).unwrap().double_value(&[]);
    assert!((norm - 5.0).abs() < 1e-9);
    assert_eq!(vector.double_value(&[1]), 1.0);
    assert!((matrix.double_value(&[0, 0]) - 0.95).abs() < 1e-6);
    assert_eq!(vector.grad().abs().sum(Kind::Float).double_value(&[]), 0.0);
}

#[test]
fn restored_state_goes_on_as_before() {
    let run = |break_at: Option<usize>| {
        let mut weights = leaf(&[1.0, 2.0], &[1, 2]);
        let mut optimizer = AdamW::new(&[&weights], 0.0).unwrap();
        for step in 0..6 {
            if break_at == Some(step) {
                let moments = optimizer.moments();
                let copy = weights.detach().copy().set_requires_grad(true);
                optimizer = AdamW::new(&[&copy], 0.0).unwrap();
                optimizer.restore(&moments).unwrap();
                weights = copy;
            }
            push_gradient(&weights, &[0.1 * step as f32, -1.0]);
            let _ = optimizer.step(0.01, 1.0).unwrap();
        }
        Vec::<f32>::try_from(weights.detach().reshape([-1])).unwrap()
    };
    assert_eq!(run(None), run(Some(3)));
}
