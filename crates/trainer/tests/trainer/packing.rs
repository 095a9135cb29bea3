//! Documents that are packed into one pass do not see each other.

use tch::{Device, Kind, Tensor};
use tunesmith_dataset::{Corpus, Sequence};
use tunesmith_model::{Adapter, CausalLm, Precision, Segment};
use tunesmith_trainer::documents::Documents;

use crate::harness::{golden, relative_difference};

/// Float tolerance, relative: neighbours change only the shapes of the products.
const TOLERANCE: f64 = 1e-5;

fn documents() -> Documents {
    let mut corpus = Corpus::default();
    for (index, length) in [9usize, 30, 4, 17, 30, 2].into_iter().enumerate() {
        corpus
            .push(&Sequence {
                tokens: (0..length)
                    .map(|place| ((place * 37 + index * 101 + 5) % 280) as u32)
                    .collect(),
                supervised: (0..length).map(|place| place % 3 != 0 || length < 5).collect(),
                fractions: Vec::new(),
            })
            .unwrap();
    }
    Documents::gather(&corpus, 0..corpus.len()).unwrap()
}

struct Bench {
    model: CausalLm,
    adapter: Adapter,
    documents: Documents,
}

impl Bench {
    fn new() -> Self {
        let folder = golden("llama");
        let model =
            CausalLm::load(&folder.join("base"), Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
        let initial = folder.join("training/final-adapter");
        Self {
            adapter: Adapter::load(&initial, model.config(), Device::Cpu).unwrap(),
            model,
            documents: documents(),
        }
    }

    fn gradient(&self) -> Tensor {
        Tensor::zeros(self.adapter.flat().size(), (Kind::Float, Device::Cpu))
    }

    fn segment<'a>(&'a self, gradient: Option<&'a Tensor>, places: &[usize]) -> Segment<'a> {
        Segment {
            adapter: Some(&self.adapter),
            gradient,
            scale: 1.0 / self.documents.weight_sum,
            dropout: None,
            documents: places
                .iter()
                .map(|place| self.documents.document(*place))
                .collect(),
        }
    }

    fn score(&self, places: &[usize]) -> f64 {
        let scores = self.model.score_pass(&[self.segment(None, places)]).unwrap();
        scores[0].loss_sum.double_value(&[])
    }
}

fn close(found: f64, wanted: f64) {
    assert!((found - wanted).abs() / wanted < TOLERANCE, "{found} {wanted}");
}

#[test]
fn the_loss_of_a_document_does_not_depend_on_its_neighbours() {
    let bench = Bench::new();
    for place in 0..bench.documents.len() {
        let alone = bench.score(&[place]);
        for neighbours in [vec![0, 1], vec![5, 4, 3], vec![1, 4]] {
            let mut all = neighbours.clone();
            all.insert(1, place);
            close(bench.score(&all) - bench.score(&neighbours), alone);
            let segments = [
                bench.segment(None, &neighbours),
                bench.segment(None, &[place]),
                bench.segment(None, &neighbours),
            ];
            let scores = bench.model.score_pass(&segments).unwrap();
            close(scores[1].loss_sum.double_value(&[]), alone);
        }
    }
}

#[test]
fn the_gradient_of_a_step_does_not_depend_on_its_passes() {
    let bench = Bench::new();
    let gradient_of = |passes: &[&[&[usize]]]| {
        let gradient = bench.gradient();
        for pass in passes {
            let segments: Vec<Segment<'_>> = pass
                .iter()
                .map(|places| bench.segment(Some(&gradient), places))
                .collect();
            bench.model.train_pass(&segments).unwrap();
        }
        gradient
    };
    let whole = gradient_of(&[&[&[0, 1, 2, 3, 4, 5]]]);
    for passes in [
        &[&[&[0usize][..]][..], &[&[1]], &[&[2]], &[&[3]], &[&[4]], &[&[5]]][..],
        &[&[&[4, 0], &[5, 2, 1], &[3]]],
        &[&[&[1, 4], &[0]], &[&[2, 3, 5]]],
    ] {
        let difference = relative_difference(&gradient_of(passes), &whole);
        assert!(difference < TOLERANCE, "{difference}");
    }
    assert!(whole.norm().double_value(&[]) > 0.0);
}

/// Were positions to go on behind a neighbour, the same document would have two losses.
#[test]
fn positions_restart_with_each_document() {
    let bench = Bench::new();
    close(bench.score(&[1, 1, 1]), 3.0 * bench.score(&[1]));
}
