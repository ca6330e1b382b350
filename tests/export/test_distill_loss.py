"""The loss of distillation against numbers computed by hand."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from proguard_edge.export.distill_loss import Figures, Mixture, divergence, two_way  # noqa: E402

NONE = torch.zeros(0, 4)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_divergence_is_the_sum_of_p_log_p_over_q_at_the_temperature() -> None:
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    # softmax((1, 0)) = (0.7310586, 0.2689414) against (0.5, 0.5)
    expected = kl([0.7310586, 0.2689414], [0.5, 0.5])
    assert float(divergence(teacher, student, 2.0)) == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(0.110944, abs=1e-5)
    # From the teacher to the student: the other way round it is another number.
    assert float(divergence(student, teacher, 2.0)) != pytest.approx(expected, abs=1e-3)


def test_equal_models_have_no_soft_loss_and_no_gradient_from_it() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    said = torch.tensor([1.5, -2.0])
    soft = Mixture(3.0).soft(logits, logits.detach(), said.clone(), said)
    assert float(soft.detach()) == pytest.approx(0, abs=1e-6)
    soft.backward()
    assert float(logits.grad.abs().max()) < 1e-6


def test_the_soft_loss_is_t_squared_times_both_means() -> None:
    words = (torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [3.0, 3.0]]))
    decided, said = torch.tensor([0.0, 1.0]), torch.tensor([-2.0, math.nan])
    # One word of two differs, and one decision is known: its T = 2 distribution is (0.73, 0.27).
    one = kl([0.7310586, 0.2689414], [0.5, 0.5])
    soft = Mixture(2.0).soft(*words, decided, said)
    assert float(soft) == pytest.approx(4 * (one / 2 + one), abs=1e-5)


def test_the_weight_shares_between_answer_and_teacher() -> None:
    hard, soft = torch.tensor(3.0), torch.tensor(5.0)
    assert float(Mixture(2.0, 0.25).total(hard, soft)) == pytest.approx(0.75 * 3 + 0.25 * 5)
    for settings in ((0.0, 0.5), (1.0, 1.5)):
        with pytest.raises(ValueError, match="temperature"):
            Mixture(*settings)


def test_without_anything_known_the_teacher_adds_nothing() -> None:
    soft = Mixture().soft(NONE, NONE, torch.tensor([1.0]), torch.tensor([math.nan]))
    assert float(soft) == 0


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    words, teacher = (torch.randn(2, 4, generator=generator) for _ in range(2))
    decided, said = torch.randn(3, generator=generator), torch.tensor([0.5, math.nan, -3.0])

    def soft(student: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
        return Mixture(2.0).soft(student, teacher, difference, said)

    words.requires_grad_()
    decided.requires_grad_()
    soft(words, decided).backward()
    step = 1e-2
    for values, gradient in ((words, words.grad), (decided, decided.grad)):
        flat = values.detach().reshape(-1)
        for index in range(flat.numel()):
            up, down = flat.clone(), flat.clone()
            up[index] += step
            down[index] -= step
            ends = [
                float(
                    soft(*(v.view_as(x) if x is values else x.detach() for x in (words, decided)))
                )
                for v in (up, down)
            ]
            # Central differences in float32 with this step are good to about 1e-3.
            numeric = (ends[0] - ends[1]) / (2 * step)
            assert float(gradient.reshape(-1)[index]) == pytest.approx(numeric, abs=2e-3)


def test_two_way_logits_renormalise_to_the_probability_of_unsafe() -> None:
    probability = two_way(torch.tensor([1.2])).softmax(-1)[0, 1]
    assert float(probability) == pytest.approx(1 / (1 + math.exp(-1.2)), abs=1e-6)


def test_figures_are_means_since_they_were_last_taken() -> None:
    figures = Figures()
    figures.add(*map(torch.tensor, (1.0, 4.0, [1.0, -1.0], [2.0, 2.0])))
    figures.add(*map(torch.tensor, (2.0, 2.0, [3.0, 1.0], [1.0, math.nan])))
    assert figures.take() == {"hard": 1.5, "soft": 3.0, "agreement": pytest.approx(2 / 3, abs=1e-4)}
    assert figures.take() == {}
