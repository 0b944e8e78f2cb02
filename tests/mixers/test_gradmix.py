"""GradMix: the criteria against autograd, the policies, online scores and state."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
import torch
from torch import nn

import gradmix_ext as gx
from gradmix_ext.mixers import criteria
from gradmix_ext.mixers.lam import LamLaw

C, D = 6, 8


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, C)).double()


def samples(classes, per_class, seed=1):
    torch.manual_seed(seed)
    y = torch.tensor(classes).repeat_interleave(per_class)
    return torch.randn(len(y), D, dtype=torch.float64) + y[:, None], y


def head_gradient(model, x, target):
    """The gradient of the mean loss in the head's parameters, by autograd, flattened."""
    loss = nn.functional.cross_entropy(model(x), target)
    grads = torch.autograd.grad(loss, [*model[-1].parameters()])
    return torch.cat([g.flatten() for g in grads])


class TestFewSamples:
    """What the criterion looks at where there is more than it may look at."""

    y = torch.tensor([0] * 60 + [2] * 30 + [5] * 10)
    x = torch.arange(100.0)

    @pytest.mark.parametrize("limit", [1, 7, 20, 99])
    def test_every_class_keeps_its_share(self, limit):
        for seed in range(20):
            x, y = criteria.few((self.x, self.y), limit, torch.Generator().manual_seed(seed))
            assert len(x.unique()) == len(y) == limit
            assert torch.equal(y, self.y[x.long()])
            share = limit * self.y.bincount(minlength=6) / 100
            assert ((y.bincount(minlength=6) - share).abs() <= 1).all()

    def test_every_sample_has_the_same_chance(self):
        g = torch.Generator().manual_seed(0)
        hits = sum(
            torch.zeros(100).index_add_(0, x.long(), torch.ones(len(x)))
            for x, _ in (criteria.few((self.x, self.y), 13, g) for _ in range(2000))
        )
        # 2000 draws of probability 0.13: standard deviation 15
        assert (hits - 260).abs().max() < 4.5 * 15

    def test_fewer_are_taken_whole_and_nothing_is_drawn(self):
        g = torch.Generator().manual_seed(0)
        before = g.get_state()
        samples = (self.x, self.y)
        assert criteria.few(samples, 100, g) is samples
        assert criteria.FewOfEach(self.y, 60).draw(samples, g) is samples
        assert torch.equal(g.get_state(), before)

    @pytest.mark.parametrize("limit", [1, 11, 59])
    def test_of_each_class_as_many(self, limit):
        shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(1))
        hits = torch.zeros(100)
        samples = self.x[shuffled], self.y[shuffled]
        few = criteria.FewOfEach(samples[1], limit)
        for seed in range(1000):
            x, y = few.draw(samples, torch.Generator().manual_seed(seed))
            assert len(x.unique()) == len(x)
            assert torch.equal(y, self.y[x.long()])
            assert y.bincount(minlength=6).tolist() == [
                min(limit, count) for count in self.y.bincount(minlength=6).tolist()
            ]
            hits[x.long()] += 1
        for label, count in ((0, 60), (2, 30), (5, 10)):
            share = min(limit / count, 1)
            spread = (1000 * share * (1 - share)) ** 0.5
            assert (hits[self.y == label] - 1000 * share).abs().max() <= 4.5 * spread

    def test_belongs_to_labels_and_a_limit(self):
        y = self.y.clone()
        few = criteria.FewOfEach(y, 3)
        assert few.fits(y, 3)
        assert not few.fits(y, 4)
        assert not few.fits(y.clone(), 3)
        y[0] = 1
        assert not few.fits(y, 3)
        with torch.inference_mode():
            unversioned = self.y.clone()
        assert criteria.FewOfEach(unversioned, 3).fits(unversioned, 3)
        del y
        assert not few.fits(self.y, 3)

    def test_of_another_task_other_samples(self):
        mixer = gx.GradMix(C, criterion="linear", samples_per_class=2)
        for classes in ([2, 3], [4, 5]):
            for _ in range(2):
                mixer.update(network(), samples(classes, 40), samples([0, 1], 4))
            assert mixer.scored.any(0).nonzero().flatten().tolist() == [0, 1, *classes]
        twin = copy.deepcopy(mixer)
        twin.update(network(), samples([2, 3], 40), samples([0, 1], 4))
        assert twin.scored[2, 3]
        assert not mixer.scored[2, 3]

    def test_no_samples(self):
        none = self.x[:0], self.y[:0]
        of_each = criteria.FewOfEach(none[1], 1)
        assert criteria.few(none, 0, None) is of_each.draw(none, None) is none
        assert len(criteria.few((self.x, self.y), 0, None)[1]) == 0

    @pytest.mark.parametrize("criterion", ["linear", "gram", "mixed"])
    def test_bounds_the_forward_passes(self, criterion):
        seen = []
        model = network()
        model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
        mixer = gx.GradMix(
            C, criterion=criterion, samples_per_class=5, buffer_samples=10, samples_per_pair=2
        )
        mixer.update(model, samples([2, 3], 40), samples([0, 1], 30))
        assert sum(seen) == (10 + 2 * 10 if criterion == "mixed" else 20)  # 10 pairs of 4 classes
        assert mixer.scored[:4, :4].all()

    def test_scores_are_those_of_all_samples_in_the_mean(self):
        current, buffer = samples([2, 3], 40), samples([0, 1], 10)
        mixer = gx.GradMix(C, criterion="linear", samples_per_class=40)
        mixer.update(network(), current, buffer)
        few = gx.GradMix(
            C, criterion="linear", samples_per_class=10, generator=torch.Generator().manual_seed(0)
        )
        drawn = []
        for _ in range(60):
            few.update(network(), current, buffer)
            drawn.append(few.scores[:4, :4])
        drawn, whole = torch.stack(drawn), mixer.scores[:4, :4]
        error = drawn.std(0) / 60**0.5
        assert ((drawn.mean(0) - whole).abs() <= 4 * error + 1e-12).all()
        assert (error[2:, 2:] > 0).all()  # the buffer is taken whole
        assert (error[:2, :2] < 1e-12).all()

    def test_a_rare_class_is_always_scored(self):
        y = torch.tensor([2] * 500 + [3])
        mixer = gx.GradMix(C, criterion="linear")
        for _ in range(20):
            mixer.update(network(), (torch.randn(501, D).double(), y), samples([0, 1], 4))
            assert mixer.scored[:4, :4].all()

    @pytest.mark.parametrize("name", ["samples_per_class", "buffer_samples"])
    def test_a_limit_there_must_be(self, name):
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            gx.GradMix(C, **{name: 0})


class TestCriteria:
    current, buffer = samples([2, 3], 7), samples([0, 1], 3)

    def pool(self):
        return torch.cat([self.current[0], self.buffer[0]]), torch.cat(
            [self.current[1], self.buffer[1]]
        )

    def test_linear_equals_autograd(self):
        model = network()
        mixer = gx.GradMix(C, criterion="linear")
        mixer.update(model, self.current, self.buffer)
        g_buf = head_gradient(model, *self.buffer)
        x, y = self.pool()
        s = [head_gradient(model, x[y == k], y[y == k]) @ g_buf for k in range(4)]
        for a in range(4):
            for b in range(4):
                torch.testing.assert_close(mixer.scores[a, b], (s[a] + s[b]) / 2)

    def test_gram_equals_autograd(self):
        model = network()
        mixer = gx.GradMix(C, criterion="gram")
        mixer.update(model, self.current, self.buffer)
        x, y = self.pool()
        g = torch.stack([head_gradient(model, x[y == k], y[y == k]) for k in range(4)])
        torch.testing.assert_close(mixer.scores[:4, :4], g @ g.T)

    def test_mixed_equals_autograd(self, monkeypatch):
        """One sample a class and a fixed λ leave nothing to chance."""
        lam = 0.3
        monkeypatch.setattr(LamLaw, "draw", lambda self, n, *_: (torch.full((n,), lam),) * 2)
        model = network()
        current, buffer = samples([2, 3], 1), samples([0, 1], 1)
        mixer = gx.GradMix(C, criterion="mixed", samples_per_pair=3)
        mixer.update(model, current, buffer)
        g_buf = head_gradient(model, *buffer)
        x = torch.cat([buffer[0], current[0]])
        eye = torch.eye(C, dtype=torch.float64)
        for a in range(4):
            for b in range(a, 4):
                soft = lam * eye[a] + (1 - lam) * eye[b]
                mixed = lam * x[a] + (1 - lam) * x[b]
                want = head_gradient(model, mixed[None], soft[None]) @ g_buf
                torch.testing.assert_close(mixer.scores[a, b], want, rtol=1e-6, atol=1e-9)
                assert mixer.scores[a, b] == mixer.scores[b, a]

    def test_mixed_scores_use_both_lams(self):
        """Inputs mixed by λ_x, labels by λ_y; with fixed λ and one sample a class, exactly.

        Either class comes first in half of the samples, so that no score depends on how classes are
        numbered.
        """
        model = network()
        current, buffer = samples([2], 1), samples([0], 1)
        mixer = gx.GradMix(
            C, criterion="mixed", lam_coupling="fixed", fixed_lam=(0.8, 0.6), samples_per_pair=2
        )
        mixer.update(model, current, buffer)
        eye = torch.eye(C, dtype=torch.float64)
        x = torch.cat([buffer[0], current[0]])
        mixed = 0.8 * x + 0.2 * x.flip(0)
        labels = torch.stack([0.6 * eye[0] + 0.4 * eye[2], 0.6 * eye[2] + 0.4 * eye[0]])
        want = head_gradient(model, mixed, labels) @ head_gradient(model, *buffer)
        torch.testing.assert_close(mixer.scores[0, 2], want, rtol=1e-6, atol=1e-9)

    def test_mixed_scores_do_not_depend_on_the_chunk(self, monkeypatch):
        scores = []
        for chunk in (50, 10_000):
            monkeypatch.setattr(criteria, "CHUNK", chunk)
            monkeypatch.setattr(LamLaw, "draw", lambda self, n, *_: (torch.full((n,), 0.5),) * 2)
            mixer = gx.GradMix(C, criterion="mixed", samples_per_pair=100)
            mixer.update(network(), self.current, self.buffer)
            scores.append(mixer.scores)
        torch.testing.assert_close(*scores, rtol=0.2, atol=0.1 * scores[0].abs().max().item())

    def test_only_classes_with_samples_are_scored(self):
        for criterion in criteria.CRITERIA:
            mixer = gx.GradMix(C, criterion=criterion)
            mixer.update(network(), self.current, self.buffer)
            present = torch.arange(C) < 4
            assert torch.equal(mixer.scored, present[:, None] & present)
            assert mixer.allowed[~mixer.scored].all()
            assert (mixer.scores[~mixer.scored] == 0).all()

    def test_seen_classes_as_indices_or_mask(self):
        scores = []
        for seen in ([0, 1, 2, 3], torch.arange(4), torch.arange(C) < 4):
            mixer = gx.GradMix(C, criterion="linear")
            mixer.update(network(), self.current, self.buffer, seen_classes=seen)
            scores.append(mixer.scores)
        assert torch.equal(scores[0], scores[1])
        assert torch.equal(scores[0], scores[2])
        unmasked = gx.GradMix(C, criterion="linear")
        unmasked.update(network(), self.current, self.buffer)
        assert not torch.allclose(unmasked.scores, scores[0])

    @pytest.mark.parametrize(
        ("seen", "message"),
        [
            ([0, -1], r"seen_classes\[1\] = -1 is out of range for 6 classes"),
            ([99], r"seen_classes\[0\] = 99 is out of range"),
            (torch.ones(4, dtype=torch.bool), r"must have shape \[6\] as a mask, got \[4\]"),
            (torch.ones(C), "must be indices .int64. or a mask .bool., got torch.float32"),
        ],
    )
    def test_bad_seen_classes(self, seen, message):
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            gx.GradMix(C).update(network(), self.current, self.buffer, seen_classes=seen)

    def test_compiled_model_is_probed_eagerly(self):
        """Also after it ran compiled, when hooks that are added later would not be seen."""
        plain, compiled = network(), network()
        compiled.compile(backend="eager")
        with torch.no_grad():
            compiled.eval()(self.current[0])
        scores = []
        for model in (plain, compiled, torch.compile(network(), backend="eager")):
            mixer = gx.GradMix(C, criterion="linear")
            mixer.update(model, self.current, self.buffer)
            scores.append(mixer.scores)
        torch.testing.assert_close(scores[0], scores[1])
        torch.testing.assert_close(scores[0], scores[2])

    def test_threshold(self):
        mixer = gx.GradMix(C, criterion="linear")
        mixer.update(network(), self.current, self.buffer)
        threshold = mixer.scores[mixer.scored].median().item()
        mixer = gx.GradMix(C, criterion="linear", threshold=threshold)
        mixer.update(network(), self.current, self.buffer)
        assert torch.equal(mixer.allowed, (mixer.scores >= threshold) | ~mixer.scored)
        assert 0 < mixer.allowed[mixer.scored].float().mean() < 1


class TestModelIsLeftAlone:
    def test_mode_and_statistics(self):
        model = nn.Sequential(
            nn.Linear(D, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, C)
        ).double()
        model[1].eval()
        before = {name: t.clone() for name, t in model.state_dict().items()}
        gx.GradMix(C).update(model, samples([2, 3], 5), samples([0, 1], 5))
        assert [m.training for m in model] == [True, False, True, True]
        assert model.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(p.grad is None for p in model.parameters())
        assert not model[-1]._forward_pre_hooks

    def test_modules_with_a_mode_of_their_own(self):
        class Noise(nn.Module):
            noisy, seen = True, ()

            def train(self, mode=True):
                self.noisy = mode
                return super().train(mode)

            def forward(self, x):
                self.seen += (self.noisy,)
                return x

        scripted = torch.jit.script(nn.Sequential(nn.BatchNorm1d(D), nn.Dropout(0.5)).double())
        model = nn.Sequential(Noise(), scripted, nn.Linear(D, C).double())
        mean = scripted[0].running_mean.clone()
        gx.GradMix(C).update(model, samples([2, 3], 5), samples([0, 1], 5))
        assert model[0].seen
        assert not any(model[0].seen)
        assert model[0].noisy
        assert torch.equal(scripted[0].running_mean, mean)
        assert scripted.training
        assert not model.eval()[1].training

    def test_modules_keep_a_mode_that_is_not_that_of_the_model(self):
        class Frozen(nn.Sequential):
            def train(self, mode=True):
                super().train(mode)
                self[0].eval()
                return self

        model = nn.Sequential(Frozen(nn.BatchNorm1d(D), nn.ReLU()), nn.Linear(D, C)).double()
        model.train()
        model[0][1].eval()
        gx.GradMix(C).update(model, samples([2, 3], 5), samples([0, 1], 5))
        assert [m.training for m in model.modules()] == [True, True, False, False, True]

    def test_a_model_that_turns_gradients_on(self):
        class Own(nn.Sequential):
            def forward(self, x):
                with torch.enable_grad():
                    return super().forward(x)

        model = Own(nn.Linear(D, C).double())
        for criterion in ("linear", "gram", "mixed"):
            mixer = gx.GradMix(C, criterion=criterion)
            mixer.update(model, samples([2, 3], 5), samples([0, 1], 5))
            assert not mixer.scores.requires_grad
            assert mixer.scored.any()

    def test_mode_is_restored_after_an_error(self):
        class Broken(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(D, C)

            def forward(self, x):
                raise KeyError("broken")

        model = Broken()
        with pytest.raises(KeyError):
            gx.GradMix(C).update(model, samples([2], 5), samples([0], 5))
        assert model.training
        assert not model.head._forward_pre_hooks


class TestHead:
    def test_by_name_and_by_module(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.classifier = nn.Linear(D, C)
                self.auxiliary = nn.Linear(D, 2)

            def forward(self, x):
                return self.classifier(x)

        model = Net().double()
        for head in ("classifier", model.classifier):
            gx.GradMix(C, head=head).update(model, samples([2], 5), samples([0], 5))
        with pytest.raises(ValueError, match="num_classes = 6 outputs, got 2"):
            gx.GradMix(C).update(model, samples([2], 5), samples([0], 5))
        with pytest.raises(ValueError, match=r"\(classifier, auxiliary\), got 'fc'"):
            gx.GradMix(C, head="fc").update(model, samples([2], 5), samples([0], 5))
        for head in (1, 3.5, nn.Conv2d(3, 3, 1)):
            with pytest.raises(TypeError, match=r"an nn\.Linear or the name of one, got"):
                gx.GradMix(C, head=head).update(model, samples([2], 5), samples([0], 5))
        with pytest.raises(ValueError, match="are not the output of the head"):
            gx.GradMix(2, head="auxiliary").update(model, samples([1], 5), samples([0], 5))

    def test_model_without_linear_layer(self):
        with pytest.raises(ValueError, match=r"no nn\.Linear to take as head: Flatten"):
            gx.GradMix(C).update(nn.Flatten(), samples([2], 5), samples([0], 5))

    def test_output_is_not_the_heads(self):
        model = nn.Sequential(nn.Linear(D, C), nn.Unflatten(1, (2, 3))).double()
        with pytest.raises(ValueError, match=r"the logits \[10, 2, 3\] are not the output"):
            gx.GradMix(C).update(model, samples([2], 5), samples([0], 5))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda z: 10 * z, "are not the output of the head"),
            (lambda z: (z, z), "must return a tensor of logits, got tuple"),
        ],
    )
    def test_output_is_changed_after_the_head(self, change, message):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(D, C)

            def forward(self, x):
                return change(self.fc(x))

        with pytest.raises(ValueError, match=message):
            gx.GradMix(C).update(Net().double(), samples([2], 5), samples([0], 5))

    def test_head_called_by_keyword(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(D, C)

            def forward(self, x):
                return self.fc(input=x)

        mixer = gx.GradMix(C)
        mixer.update(Net().double(), samples([2], 5), samples([0], 5))
        assert mixer.scored.any()

    @pytest.mark.parametrize("criterion", criteria.CRITERIA)
    def test_head_without_bias_has_no_bias_gradient(self, criterion, monkeypatch):
        monkeypatch.setattr(LamLaw, "draw", lambda self, n, *_: (torch.full((n,), 0.3),) * 2)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Tanh(), nn.Linear(D, C, bias=False)).double()
        current, buffer = samples([2], 1), samples([0], 1)
        mixer = gx.GradMix(C, criterion=criterion, samples_per_pair=1)
        mixer.update(model, current, buffer)
        eye = torch.eye(C, dtype=torch.float64)
        g = {k: head_gradient(model, x, y) for k, (x, y) in ((0, buffer), (2, current))}
        mixed = 0.3 * buffer[0] + 0.7 * current[0]
        want = {
            "mixed": head_gradient(model, mixed, (0.3 * eye[0] + 0.7 * eye[2])[None]) @ g[0],
            "linear": (g[0] + g[2]) @ g[0] / 2,
            "gram": g[0] @ g[2],
        }[criterion]
        torch.testing.assert_close(mixer.scores[0, 2], want, rtol=1e-6, atol=1e-9)


class TestPolicies:
    def mixer(self, policy):
        mixer = gx.GradMix(4, policy=policy, generator=torch.Generator().manual_seed(0))
        mixer.allowed = torch.tensor(
            [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool
        )
        return mixer

    @pytest.mark.parametrize("policy", ["redraw", "skip"])
    def test_only_helpful_pairs_are_mixed(self, policy):
        mixer, y = self.mixer(policy), torch.randint(4, (200,))
        batch = mixer.mix(torch.randn(200, D), y)
        assert mixer.allowed[y, batch.partner_target][batch.mask].all()
        assert not batch.mask[y == 3].any()
        if policy == "redraw":
            assert batch.mask[y != 3].all()
        else:
            assert torch.equal(batch.mask, mixer.allowed[y, batch.partner_target])

    def test_first_task(self):
        x, y = torch.randn(20, D), torch.randint(C, (20,))
        for first_task, mixed in (("mixup", True), ("none", False)):
            mixer = gx.GradMix(C, first_task=first_task)
            assert bool(mixer.mix(x, y).mask.all()) == mixed
            mixer.update(network(), (x, y))
            assert bool(mixer.mix(x, y).mask.all()) == mixed
            mixer.update(network(), (x, y), (x[:0], y[:0]))
            assert bool(mixer.mix(x, y).mask.any()) == mixed


def test_update_due():
    due = {
        update: [step for step in range(7) if gx.GradMix(C, update=update).update_due(step)]
        for update in ("epoch", "online", 3)
    }
    assert due == {"epoch": [0], "online": [0], 3: [0, 3, 6]}
    assert not any(gx.Mixup().update_due(step) for step in range(3))


class TestOnline:
    def test_scores_approach_those_of_the_criterion(self):
        model, current, buffer = network(), samples([2, 3], 40), samples([0, 1], 40)
        pool_x, pool_y = torch.cat([current[0], buffer[0]]), torch.cat([current[1], buffer[1]])
        online = gx.GradMix(C, update="online", per_sample_lam=True, score_momentum=0.98)
        online.update(model, current, buffer)
        for _ in range(250):  # the model stands still, so the average converges
            index = torch.randint(160, (64,))
            batch = online.mix(pool_x[index], pool_y[index])
            batch.loss(model(batch.x))
        mixed = gx.GradMix(C, criterion="mixed", samples_per_pair=500)
        mixed.update(model, current, buffer)
        off_diagonal = mixed.scored & ~torch.eye(C, dtype=torch.bool)
        assert torch.equal(online.scored, mixed.scored)
        torch.testing.assert_close(
            online.scores[off_diagonal], mixed.scores[off_diagonal],
            rtol=0.25, atol=0.15 * mixed.scores[mixed.scored].abs().max().item(),
        )  # fmt: skip

    def test_excluded_pairs_are_tried_again(self):
        model, current, buffer = network(), samples([2, 3], 40), samples([0, 1], 40)
        tried = []
        for exploration in (0.0, 0.2):
            mixer = gx.GradMix(C, update="online", preset="paper", exploration=exploration)
            mixer.update(model, current, buffer)
            mixer.scored[:] = True
            mixer.allowed[:] = torch.eye(C, dtype=torch.bool)
            count = 0
            for _ in range(30):
                batch = mixer.mix(*current)
                count += int((batch.target != batch.partner_target)[batch.mask].sum())
            tried.append(count)
        assert tried[0] == 0
        assert tried[1] > 0

    def online(self, **options):
        model, current, buffer = network(), samples([2, 3], 4), samples([0, 1], 4)
        mixer = gx.GradMix(C, update="online", **options)
        mixer.update(model, current, buffer)
        return mixer, model, current, buffer

    def test_each_batch_is_scored_by_its_own_forward(self):
        """Other forwards in between, and losses in another order, change nothing."""
        mixer, model, current, buffer = self.online(exploration=0.0, score_momentum=0.0)
        first, second = mixer.mix(*current), mixer.mix(buffer[0][:5], buffer[1][:5])
        outputs = model(first.x), model(second.x)
        model(torch.randn(3, D).double())
        second.loss(outputs[1])
        first.loss(outputs[0])
        scores = mixer.scores.clone()
        assert scores[2:4, 2:4].any()
        first.loss(outputs[0])  # once more, for a log
        assert torch.equal(mixer.scores, scores)

    def test_logits_of_something_else_are_an_error(self):
        mixer, model, current, _ = self.online()
        batch = mixer.mix(*current)
        with pytest.raises(ValueError, match="are not the output of the head"):
            batch.loss(model(batch.x) * 2)

    def test_compiled_model_is_an_error(self):
        model = torch.compile(network(), backend="eager")
        with pytest.raises(ValueError, match="update='online' cannot see into a compiled model"):
            gx.GradMix(C, update="online").update(model, samples([2], 4), samples([0], 4))

    def test_leaves_no_hook_and_copies_cleanly(self):
        mixer, model, current, buffer = self.online()
        head = model[-1]
        assert len(head._forward_hooks) == 1
        copied = copy.deepcopy(mixer)
        batch = copied.mix(*current)
        batch.loss(model(batch.x))  # the copy watches nothing until its own update
        assert torch.equal(copied.allowed, mixer.allowed)
        mixer.update(model, current, None)
        assert not head._forward_hooks
        mixer.update(model, current, buffer)
        del mixer
        gc.collect()
        assert not head._forward_hooks

    def test_random_mask_holds_still_between_updates(self):
        model, current, buffer = network(), samples([2, 3], 20), samples([0, 1], 20)
        mixer = gx.RandomMaskMixup(C, update="online", fraction=0.5)
        mixer.update(model, current, buffer)
        x, y = torch.cat([current[0], buffer[0]]), torch.cat([current[1], buffer[1]])
        masks = []
        for _ in range(30):
            batch = mixer.mix(x, y)
            batch.loss(model(batch.x))
            masks.append(mixer.allowed.clone())
        assert mixer.scored.sum() == 16
        assert torch.equal(masks[-1], masks[-2])

    def test_training_forward_is_the_only_one(self):
        model, current, buffer = network(), samples([2, 3], 4), samples([0, 1], 4)
        mixer = gx.GradMix(C, update="online")
        mixer.update(model, current, buffer)
        forwards = []
        model.register_forward_hook(lambda *_: forwards.append(1))
        batch = mixer.mix(*current)
        batch.loss(model(batch.x)).backward()
        assert len(forwards) == 1
        assert mixer.scored.any()


class TestRandomMask:
    def test_allows_as_many_pairs_as_gradmix(self):
        model, current, buffer = network(), samples([2, 3, 4], 9), samples([0, 1], 9)
        gradmix = gx.GradMix(C, criterion="linear")
        gradmix.update(model, current, buffer)
        share = gradmix.allowed[gradmix.scored].sum()
        assert 0 < share < gradmix.scored.sum()
        masks = set()
        for seed in range(5):
            control = gx.RandomMaskMixup(
                C, criterion="linear", generator=torch.Generator().manual_seed(seed)
            )
            control.update(model, current, buffer)
            assert torch.equal(control.allowed, control.allowed.T)
            assert (
                control.allowed.triu()[control.scored].sum()
                == gradmix.allowed.triu()[gradmix.scored].sum()
            )
            masks.add(tuple(control.allowed.flatten().tolist()))
        assert len(masks) > 1

    def test_is_the_published_rule_with_another_mask(self):
        control = gx.RandomMaskMixup(C, generator=torch.Generator().manual_seed(3))
        rule = gx.GradMix(C, preset="paper")
        for name in ("criterion", "policy", "lam_law", "balance", "threshold", "update_every"):
            assert getattr(control, name) == getattr(rule, name), name
        current, buffer = samples([2, 3], 9), samples([0, 1], 9)
        control.update(network(), current, buffer)
        assert not control.allowed[control.scored].all()
        x, y = (torch.cat(parts) for parts in zip(current, buffer, strict=True))
        for _ in range(20):
            batch = control.mix(x, y)
            assert control.allowed[y, batch.partner_target][batch.mask].all()

    @pytest.mark.parametrize("control", [gx.RandomMaskMixup, gx.ShuffledScoresMixup])
    def test_follows_the_samples_to_their_device(self, control):
        """A mixer is made on the CPU; what it moves when it must is what it needs."""
        with torch.device("meta"):  # stands for a device that the samples are not on
            mixer = control(C, preset="paper")
        mixer.update(network(), samples([2, 3], 9), samples([0, 1], 9))
        assert mixer.allowed.device.type == "cpu"
        x, y = samples([0, 2], 9)
        assert mixer.mix(x, y).x.device == x.device

    def test_fraction(self):
        mixer = gx.RandomMaskMixup(C, fraction=0.4)
        mixer.update(network(), samples([2, 3], 9), samples([0, 1], 9))
        assert mixer.allowed.triu()[mixer.scored].sum() == 4  # of the 10 pairs of 4 classes
        with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got 1.5"):
            gx.RandomMaskMixup(C, fraction=1.5)

    @pytest.mark.parametrize("soft", [{"policy": "soft"}, {"preset": "tuned"}])
    def test_the_soft_rule_has_no_mask(self, soft):
        with pytest.raises(ValueError, match=r"needs policy 'redraw' or 'skip' .* got 'soft'"):
            gx.RandomMaskMixup(C, **soft)


def test_state_dict_round_trip():
    mixer = gx.GradMix(C, generator=torch.Generator().manual_seed(0))
    mixer.update(network(), samples([2, 3], 9), samples([0, 1], 9))
    other = gx.GradMix(C, generator=torch.Generator().manual_seed(5))
    other.load_state_dict(mixer.state_dict())
    for name in ("scores", "scored", "allowed", "preference"):
        assert torch.equal(getattr(other, name), getattr(mixer, name))
    with pytest.raises(ValueError, match=r"must have shape \[5, 5\], got \[6, 6\]"):
        gx.GradMix(5).load_state_dict(mixer.state_dict())
    with pytest.raises(ValueError, match="no 'scores'"):
        other.load_state_dict({})


COUNTS = ["num_classes", "samples_per_pair", "samples_per_class", "buffer_samples"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [2.5, 2.0, True, "2", None])
def test_counts_are_integers(name, value):
    with pytest.raises(TypeError, match=f"^{name} must be an integer, got {value!r}"):
        gx.GradMix(**{"num_classes": C, name: value})


@pytest.mark.parametrize("name", COUNTS)
def test_counts_may_be_integers_of_numpy(name):
    count = getattr(gx.GradMix(**{"num_classes": C, name: np.int64(3)}), name)
    assert type(count) is int
    assert count == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be positive, got 0"),
        ({"criterion": "cosine"}, "criterion must be one of mixed, linear, gram, got 'cosine'"),
        ({"policy": "best"}, "policy must be one of redraw, skip, soft, got 'best'"),
        ({"preset": "best"}, "preset must be one of tuned, paper, got 'best'"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"update": 0}, "update must be 'epoch', 'online' or a positive number of steps, got 0"),
        ({"update": "never"}, "got 'never'"),
        ({"threshold": float("nan")}, "threshold must be finite, got nan"),
        ({"samples_per_pair": 0}, "samples_per_pair must be positive, got 0"),
        ({"first_task": "mix"}, "first_task must be one of mixup, none"),
        ({"exploration": 1.0}, r"exploration must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        gx.GradMix(**{"num_classes": C} | options)


def test_plain_training_loop_learns():
    """The loop of the README on separable data: the loss falls and the criterion is in use."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, C)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    current, buffer = samples([2, 3], 50), samples([0, 1], 10)
    mixer = gx.GradMix(num_classes=C)
    x, y = torch.cat([current[0], buffer[0]]), torch.cat([current[1], buffer[1]])
    losses = [nn.functional.cross_entropy(model(x), y).item()]
    for _ in range(8):
        mixer.update(model, current, buffer)
        for index in torch.randperm(len(y)).split(24):
            batch = mixer.mix(x[index], y[index])
            loss = batch.loss(model(batch.x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(nn.functional.cross_entropy(model(x), y).item())
    assert losses[-1] < 0.6 * losses[0]
    assert mixer.scored.sum() == 16
