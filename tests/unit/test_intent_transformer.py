"""The Intent Transformer: causal, indifferent to padding, and it learns."""

from __future__ import annotations

import torch

from pipelines.models.intent.features import EVENT_INPUTS, USER_FEATURES
from pipelines.models.intent.gru import IntentGru
from pipelines.models.intent.outputs import BUYS
from pipelines.models.intent.transformer import (
    AUXILIARIES,
    LATER,
    IntentConfig,
    IntentTransformer,
    Targets,
    bootstrapped,
    intent_loss,
    member_mean,
)

CONFIG = IntentConfig(width=8, heads=2, layers=2, members=2, dropout=0.0)


def inputs(rows: int, events: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, events, EVENT_INPUTS), torch.randn(
        rows, events, 2 * len(USER_FEATURES)
    )


def network() -> IntentTransformer:
    torch.manual_seed(0)
    return IntentTransformer(CONFIG).eval()


def test_outputs_have_the_shapes_that_are_told() -> None:
    """Members, rows, positions, and two logits beside the auxiliary outputs."""
    for net in (network(), IntentGru(CONFIG).eval()):
        logits, auxiliary = net(*inputs(3, 5))
        assert logits.shape == (2, 3, 5, 2)
        assert auxiliary.shape == (2, 3, 5, AUXILIARIES)


def test_later_events_do_not_touch_earlier_forecasts() -> None:
    """Changing the last event and what is known of the user then changes its own forecast alone."""
    net, (events, user) = network(), inputs(2, 6)
    before, _ = net(events, user)
    events[:, -1] += 1
    user[:, -1] -= 1
    after, _ = net(events, user)
    assert torch.allclose(before[:, :, :-1], after[:, :, :-1], atol=1e-6)
    assert not torch.allclose(before[:, :, -1], after[:, :, -1], atol=1e-3)


def test_what_is_known_of_the_user_at_one_event_touches_no_other() -> None:
    """Training has it at every event, serving at the last one only; both must agree."""
    net, (events, user) = network(), inputs(2, 6)
    before, _ = net(events, user)
    user[:, :-1] = 0
    after, _ = net(events, user)
    assert torch.allclose(before[:, :, -1], after[:, :, -1], atol=1e-6)


def test_order_matters() -> None:
    """The same events the other way round give another forecast."""
    net, (events, user) = network(), inputs(1, 6)
    forward, _ = net(events, user)
    turned = events.flip(1)
    turned[:, -1] = events[:, -1]
    backward, _ = net(turned, user)
    assert not torch.allclose(forward[:, :, -1], backward[:, :, -1], atol=1e-4)


def test_a_label_is_mixed_with_the_forecast_of_the_next_event_and_padding_is_left_out() -> None:
    """The last event keeps what happened; the one before gets its share of the forecast."""
    forecast = torch.tensor([[[0.9, 0.5, 0.2, 0.7]]])
    there = torch.tensor([[True, True, True, False]])
    found = bootstrapped(torch.ones(1, 4), forecast, there, 0.5)
    assert torch.allclose(found, torch.tensor([[[0.55, 0.6, 1.0, 1.0]]]))


def test_members_are_averaged_as_probabilities() -> None:
    """The mean of 0.2 and 0.6 is 0.4, whatever the mean of their logits."""
    logits = torch.logit(torch.tensor([[0.2], [0.6]]))
    assert torch.allclose(torch.sigmoid(member_mean(logits)), torch.tensor([0.4]), atol=1e-6)


def test_a_few_steps_on_a_pattern_learn_it() -> None:
    """The loss falls when the first input is the label."""
    torch.manual_seed(0)
    net = IntentTransformer(CONFIG)
    events, user = inputs(64, 4)
    label = (events[:, :, 0] > 0).float()
    ones, zeros = torch.ones(64, 4), torch.zeros(64, 4)
    targets = Targets(
        weight=ones,
        auxiliary_weight=zeros,
        purchase=label,
        soon=zeros,
        next_action=torch.zeros(64, 4, dtype=torch.int64),
        next_dwell=zeros,
        next_scroll=zeros,
        has_next=zeros,
        later=torch.zeros(64, 4, len(LATER)),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        logits, auxiliary = net(events, user)
        loss = intent_loss(logits, auxiliary, targets, label.expand(2, -1, -1), CONFIG).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (member_mean(net(events, user)[0])[..., BUYS] > 0).float() == label
    assert right.float().mean() > 0.95
