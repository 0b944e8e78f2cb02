"""The soft policy against its closed form, its limits, its control, and the published preset."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

import gradmix_ext as gx
from gradmix_ext.mixers.lam import beta
from gradmix_ext.ops import pair_preferences as preferences

C, D = 6, 8
Y = torch.tensor([0] * 12 + [1] * 5 + [3] * 2 + [4])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, C))


def samples(classes, per_class, seed=1):
    torch.manual_seed(seed)
    y = torch.tensor(classes).repeat_interleave(per_class)
    return torch.randn(len(y), D) + y[:, None], y


CURRENT, BUFFER = samples([2, 3], 9), samples([0, 1], 4)


def draw_softly(y, preference, noise):
    return gx.ops.draw_softly(y, preference, noise=noise)


def law(preference):
    """Probability [N, N] of each partner, from the formula."""
    odds = preference.double().exp()[Y][:, Y] / Y.bincount()[Y]
    return odds / odds.sum(dim=1, keepdim=True)


class TestDraw:
    def test_follows_its_closed_form(self):
        """Copies of a batch put together have the law of one, so a single draw gives thousands."""
        copies, n = 4000, len(Y)
        preference = torch.randn(C, C, generator=seeded(1))
        noise = torch.rand(copies * n, dtype=torch.float64, generator=seeded())
        partner, mask = draw_softly(Y.repeat(copies), preference, noise)
        assert mask.all()
        drawn, expected = (partner % n).reshape(copies, n), law(preference)
        for i in (0, 13, 17, 19):  # a sample of each class
            count = drawn[:, i].bincount(minlength=n)
            assert stats.chisquare(count.numpy(), copies * expected[i].numpy()).pvalue > 1e-3

    def test_extremes_of_the_noise(self):
        """The ends of [0, 1) give partners of possible classes."""
        preference = torch.randn(C, C, generator=seeded(3))
        preference[:, 4] = -torch.inf
        for value in (0.0, 1 - 2**-53):
            noise = torch.full((len(Y),), value, dtype=torch.float64)
            partner, mask = draw_softly(Y, preference, noise)
            assert mask.all()
            assert not torch.isin(Y[partner], torch.tensor([2, 4, 5])).any()

    def test_excluded_rows_stay_unmixed(self):
        preference = torch.zeros(C, C)
        preference[1] = -torch.inf
        partner, mask = draw_softly(Y, preference, torch.rand(len(Y), dtype=torch.float64))
        assert torch.equal(mask, Y != 1)
        assert torch.equal(partner[~mask], torch.arange(len(Y))[~mask])

    @pytest.mark.parametrize("scale", [1e4, 1e30])
    def test_strong_preferences_take_the_best_class_there_is(self, scale):
        scores = torch.arange(36.0).reshape(C, C)
        partner, _ = draw_softly(Y, scale * scores, torch.rand(len(Y), dtype=torch.float64))
        assert (Y[partner] == 4).all()  # class 5 would be better, but the batch has none of it

    @pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
    def test_any_number_of_samples_of_a_class(self, module):
        """2^40 steps of odds times so many samples are more than an int64 holds."""
        n = 2**23 + 2**20
        noise = torch.linspace(0, 1 - 2**-50, n, dtype=torch.float64)
        same = torch.zeros(n, dtype=torch.int64)
        partner, mask = module.draw_softly(same, torch.zeros(1, 1), noise=noise)
        assert mask.all()
        assert ((noise * n).long() - partner).abs().max() <= 1

    @pytest.mark.parametrize("n", [0, 1])
    def test_tiny_batches(self, n):
        partner, mask = draw_softly(Y[:n], torch.zeros(C, C), torch.rand(n, dtype=torch.float64))
        assert partner.tolist() == list(range(n))
        assert mask.all()

    def test_only_the_classes_of_the_batch_count(self):
        """Whatever the number of classes there are, the partners are those of the ones there."""
        label = torch.tensor([3, 40, 17, 99, 0, 5])  # of more classes than the batch has samples
        preference = torch.randn(100, 100, generator=seeded(1))
        few = preference[label][:, label]
        order = label.argsort()  # classes keep their order, so that the same noise means the same
        noise = torch.rand(len(Y), dtype=torch.float64, generator=seeded())
        partner, mask = draw_softly(label[Y], preference, noise)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(6))
        want = draw_softly(rank[Y], few[order][:, order], noise)
        assert torch.equal(partner, want[0])
        assert torch.equal(mask, want[1])

    def test_captures_as_one_graph(self):
        compiled = torch.compile(draw_softly, backend="eager", fullgraph=True)
        preference, noise = torch.randn(C, C), torch.rand(len(Y), dtype=torch.float64)
        assert torch.equal(compiled(Y, preference, noise)[0], draw_softly(Y, preference, noise)[0])


class TestPreferences:
    scored = torch.ones(C, C, dtype=torch.bool)

    def test_are_standard_scores_over_the_temperature(self):
        scores = torch.randn(C, C, dtype=torch.float64)
        want = (scores - scores.mean()) / (3 * scores.std(correction=0))
        torch.testing.assert_close(preferences(scores, self.scored, 3.0), want)
        torch.testing.assert_close(preferences(1e-3 * scores - 7, self.scored, 3.0), want)

    def test_pairs_without_score_are_neutral(self):
        scores = torch.randn(C, C)
        scored = torch.arange(C) < 3
        scored = scored[:, None] & scored
        preference = preferences(scores, scored, 2.0)
        assert (preference[~scored] == 0).all()
        part = preferences(scores[:3, :3], scored[:3, :3], 2.0)
        torch.testing.assert_close(preference[:3, :3], part)

    @pytest.mark.parametrize("scores", [torch.zeros(C, C), torch.full((C, C), 1 / 3)])
    def test_equal_scores_prefer_nothing(self, scores):
        preference = preferences(scores, self.scored, 1e-3)
        assert preference.isfinite().all()
        assert preference.max() - preference.min() == 0
        assert (preferences(scores, ~self.scored, 1.0) == 0).all()


class TestSoftGradMix:
    def test_without_temperature_bound_it_is_balanced(self):
        mixer = gx.GradMix(C, temperature=float("inf"))
        mixer.update(network(), CURRENT, BUFFER)
        assert mixer.scores.any()
        even = 1 / (4 * Y.bincount()[Y].double())  # BalancedMixup's law: 4 classes in the batch
        torch.testing.assert_close(law(mixer.preference), even.expand(len(Y), len(Y)))

    def test_at_a_low_temperature_only_the_best_pairs_are_mixed(self):
        mixer = gx.GradMix(C, temperature=1e-6)
        mixer.update(network(), CURRENT, BUFFER)
        y = torch.cat([CURRENT[1], BUFFER[1]])
        partner, _ = mixer.draw_partners(y)
        assert torch.equal(y[partner], mixer.scores[:, :4].argmax(dim=1)[y])

    @pytest.mark.parametrize("update", ["epoch", "online"])
    def test_higher_scores_are_drawn_more_often(self, update):
        mixer = gx.GradMix(C, update=update, temperature=0.5, generator=seeded())
        model = network()
        mixer.update(model, CURRENT, BUFFER)
        x = torch.cat([CURRENT[0], BUFFER[0]]).repeat(50, 1)
        y = torch.cat([CURRENT[1], BUFFER[1]]).repeat(50)
        count = torch.zeros(C, C)
        for _ in range(10):
            batch = mixer.mix(x, y)
            if update == "online":
                batch.loss(model(batch.x))
            count.index_put_((y, batch.partner_target), torch.ones(len(y)), accumulate=True)
        odds = mixer.preference[:4, :4].exp()
        expected, found = odds / odds.sum(1, keepdim=True), count[:4, :4]
        found = found / found.sum(1, keepdim=True)
        tolerance = 0.05 if update == "epoch" else 0.3  # online the scores move meanwhile
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)

    def test_first_task(self):
        x, y = torch.randn(20, D), torch.randint(C, (20,))
        for first_task, mixed in (("mixup", True), ("none", False)):
            mixer = gx.GradMix(C, first_task=first_task)
            assert bool(mixer.mix(x, y).mask.all()) == mixed
            mixer.update(network(), CURRENT, BUFFER)
            assert mixer.mix(x, y).mask.all()
            mixer.update(network(), CURRENT)
            assert bool(mixer.mix(x, y).mask.any()) == mixed

    def test_state_resumes_the_draws(self):
        mixer = gx.GradMix(C, generator=seeded())
        mixer.update(network(), CURRENT, BUFFER)
        other = gx.GradMix(C, generator=seeded(9))
        other.load_state_dict(mixer.state_dict())
        assert torch.equal(mixer.mix(*CURRENT).x, other.mix(*CURRENT).x)

    def test_its_control_shuffles_what_the_scores_say(self):
        mixer = gx.GradMix(C)
        mixer.update(network(), CURRENT, BUFFER)
        pairs = mixer.scored.triu()
        dealt = set()
        for seed in range(5):
            control = gx.ShuffledScoresMixup(C, generator=seeded(seed))
            control.update(network(), CURRENT, BUFFER)
            assert torch.equal(control.preference, control.preference.T)
            assert (control.preference[~control.scored] == 0).all()
            torch.testing.assert_close(
                control.preference[pairs].sort().values, mixer.preference[pairs].sort().values
            )
            dealt.add(tuple(control.preference[pairs].tolist()))
        assert len(dealt) > 1


class TestPaperPreset:
    def test_settings(self):
        for options in ({"preset": "paper"}, {"preset": "paper", "balance": 0.25}, {}):
            mixer = gx.GradMix(C, **options)
            paper = "preset" in options
            assert mixer.criterion == ("mixed" if paper else "linear")
            assert mixer.policy == ("redraw" if paper else "soft")
            assert mixer.lam_law.per_sample != paper
            assert mixer.balance == options.get("balance", 0.0 if paper else 0.5)
            assert mixer.threshold == 0
            assert mixer.update_every == "epoch"

    def test_mixes_as_the_published_rule_bit_for_bit(self):
        """Partners by the op from the sign of the scores, one λ, no weights."""
        mixer = gx.GradMix(C, preset="paper", generator=seeded(4))
        mixer.update(network(), CURRENT, BUFFER)
        replay = torch.Generator()
        replay.set_state(mixer.generator.get_state())
        x, y = (torch.cat(parts) for parts in zip(CURRENT, BUFFER, strict=True))
        batch = mixer.mix(x, y)
        helpful = (mixer.scores >= 0) | ~mixer.scored
        assert not helpful.all()
        partner, mask = gx.ops.draw_partners(y, helpful, policy="redraw", generator=replay)
        lam = torch.where(mask, beta(1.0, 1, x.device, replay).expand(len(y)), 1.0)
        assert torch.equal(batch.partner, partner)
        assert torch.equal(batch.mask, mask)
        assert torch.equal(batch.x, gx.ops.masked_mixup(x, partner, lam, mask))
        assert batch.weight is None
