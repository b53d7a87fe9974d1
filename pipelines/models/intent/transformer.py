"""A small causal transformer over a session's events: will it end in a purchase, and how soon.

A shopper's intent is hidden and changes slowly. One layer of attention with learned forgetting
(ALiBi, Press et al. 2022) sums up the evidence of the events so far, the perceptron after it weighs
the sum against what is known of the user. Several members with their own weights run as one batch;
their probabilities are averaged.

Purchases are rare, so every event of a session is trained on, and auxiliary outputs forecast what
comes next and whether the cart will be used: the same hidden intent shows in these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.intent.features import EVENT_INPUTS, USER_FEATURES
from pipelines.models.intent.outputs import BUYS, IS_SOON

NEXT_ACTIONS: Final = 8  # six actions, a purchase, the end of the session
LATER: Final = ("cart", "checkout", "cart_soon", "checkout_soon", "purchase_soon")
"""Auxiliary outputs, for training: whether these follow; `soon` is within 8 events."""
AUXILIARIES: Final = NEXT_ACTIONS + 2 + len(LATER)


@dataclass(frozen=True)
class IntentConfig:
    """The network's size and how it is trained."""

    width: int = 32
    heads: int = 4
    layers: int = 1
    members: int = 3
    dropout: float = 0.2
    learning_rate: float = 0.006
    weight_decay: float = 0.05
    epochs: int = 6
    batch_events: int = 1536
    averaging: float = 0.98  # of the weights, per step
    auxiliary_weight: float = 0.1
    bootstrap: float = 0.1  # share of the label that is the next event's own forecast


class IntentTransformer(nn.Module):
    """Logits for every position of a window; (M members) share the input.

    In shapes: M members, B rows, T events, D width, H heads.

    Args:
        config: sizes.
        user_features: how many it reads.
    """

    def __init__(self, config: IntentConfig, user_features: int = len(USER_FEATURES)) -> None:
        super().__init__()
        self.config = config
        d, m = config.width, config.members

        def weight(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(m, rows, columns) * scale * rows**-0.5)

        def zeros(columns: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(m, 1, columns))

        self.embed, self.embed_bias = weight(EVENT_INPUTS, d), zeros(d)
        self.user = weight(2 * user_features, d, 0.3)
        self.layers = nn.ModuleList(
            nn.ParameterDict(
                {
                    "norm_attention": nn.Parameter(torch.ones(m, 1, d)),
                    "qkv": weight(d, 3 * d),
                    # From almost no forgetting to one event's worth; softplus of it is the slope.
                    "forgetting": nn.Parameter(torch.linspace(-5, 0.5, config.heads).repeat(m, 1)),
                    "mix": weight(d, d, 0.5),
                    "norm_mlp": nn.Parameter(torch.ones(m, 1, d)),
                    "up": weight(d, 4 * d),
                    "down": weight(4 * d, d, 0.5),
                }
            )
            for _ in range(config.layers)
        )
        self.norm_out = nn.Parameter(torch.ones(m, 1, d))
        self.head = weight(d, 2, 0.1)
        self.head_bias = nn.Parameter(torch.tensor([-3.0, 0.0]).repeat(m, 1, 1))
        self.auxiliary, self.auxiliary_bias = weight(d, AUXILIARIES, 0.1), zeros(AUXILIARIES)

    def forward(self, events: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """Forecasts at every position, from this position and those before it.

        Args:
            events: (B, T, EVENT_INPUTS), padded at the end.
            user: (B, T, 2 × user features), what was known of the user at each position; it
                touches no other position.

        Returns:
            (M, B, T, 2) logits: a purchase later, and soon if there is one.
            (M, B, T, AUXILIARIES) auxiliary outputs, for training.
        """
        m, (b, t, _) = self.config.members, events.shape
        d, h = self.config.width, self.config.heads
        flat = events.reshape(1, b * t, -1).expand(m, -1, -1)  # (M, B·T, inputs)
        x = torch.baddbmm(self.embed_bias, flat, self.embed)  # (M, B·T, D)
        about_user = torch.bmm(user.reshape(1, b * t, -1).expand(m, -1, -1), self.user)
        place = torch.arange(t, device=events.device)
        distance = (place[:, None] - place).to(events.dtype)  # (T, T), negative for the future
        for number, parameters in enumerate(self.layers):
            layer = dict(parameters.named_parameters())
            normed = _rms_norm(x, layer["norm_attention"])
            qkv = torch.bmm(normed, layer["qkv"]).view(m, b, t, 3, h, d // h)
            q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (M, B, H, T, D/H)
            slope = F.softplus(layer["forgetting"]).view(m, 1, h, 1, 1)
            score = q @ k.transpose(-1, -2) * (d // h) ** -0.5 - slope * distance  # (M, B, H, T, T)
            attention = score.masked_fill(distance < 0, -torch.inf).softmax(-1)
            attended = (attention @ v).transpose(2, 3).reshape(m, b * t, d)  # (M, B·T, D)
            x = x + self._drop(torch.bmm(attended, layer["mix"]))
            if number == len(self.layers) - 1:
                # After the last attention: a row gets its own user features only.
                x = x + about_user
            hidden = F.relu(torch.bmm(_rms_norm(x, layer["norm_mlp"]), layer["up"])).square()
            x = x + self._drop(torch.bmm(hidden, layer["down"]))
        x = _rms_norm(x, self.norm_out)
        logits = torch.baddbmm(self.head_bias, x, self.head).view(m, b, t, 2)
        auxiliary = torch.baddbmm(self.auxiliary_bias, x, self.auxiliary).view(m, b, t, -1)
        return logits, auxiliary

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain


@dataclass(frozen=True)
class Targets:
    """What followed each position; all (B, T) but `later`.

    Both weights are 0 for padding and where another window has the position; `weight` also where
    the user's features are not known. `has_next` is 0 for a session's last event.
    """

    weight: Tensor
    auxiliary_weight: Tensor
    purchase: Tensor
    soon: Tensor
    next_action: Tensor  # int64
    next_dwell: Tensor
    next_scroll: Tensor
    has_next: Tensor
    later: Tensor  # (B, T, len(LATER))


def intent_loss(
    logits: Tensor, auxiliary: Tensor, targets: Targets, purchase: Tensor, config: IntentConfig
) -> Tensor:
    """(M,) sums over the positions: log loss of purchase and urgency, and of the auxiliary outputs.

    Args:
        logits: (M, B, T, 2).
        auxiliary: (M, B, T, AUXILIARIES).
        targets: what happened.
        purchase: (M, B, T) label of a purchase, soft where it is bootstrapped.
        config: for the auxiliary weight.
    """
    main = _log_loss(logits[..., BUYS], purchase)
    main = main + targets.purchase * _log_loss(logits[..., IS_SOON], targets.soon)
    index = targets.next_action.expand(auxiliary.shape[0], -1, -1)[..., None]
    actions = auxiliary[..., :NEXT_ACTIONS].log_softmax(-1)
    extra = -actions.gather(-1, index)[..., 0]
    for place, value in enumerate((targets.next_dwell, targets.next_scroll)):
        error = (auxiliary[..., NEXT_ACTIONS + place] - value).square()
        extra = extra + 0.25 * targets.has_next * error
    later = auxiliary[..., NEXT_ACTIONS + 2 :]
    extra = extra + 2 * _log_loss(later, targets.later).sum(-1)
    extra = extra * targets.auxiliary_weight * config.auxiliary_weight
    return (main * targets.weight + extra).sum((1, 2))


def bootstrapped(purchase: Tensor, forecast: Tensor, there: Tensor, share: float) -> Tensor:
    """Labels mixed backwards with the model's own forecast one event on, as in TD(λ).

    The next event's forecast averages over futures of which the session shows only one, so the
    label is less noisy (Sutton 1988).

    Args:
        purchase: (B, T) what happened.
        forecast: (M, B, T) probabilities, of the averaged weights.
        there: (B, T) bool, False for padding.
        share: 1 − λ.

    Returns:
        (M, B, T)
    """
    found = purchase.expand_as(forecast).clone()
    for t in range(forecast.shape[-1] - 2, -1, -1):
        mixed = share * forecast[..., t + 1] + (1 - share) * found[..., t + 1]
        found[..., t] = torch.where(there[:, t + 1], mixed, found[..., t])
    return found


def _log_loss(logits: Tensor, label: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, label.expand_as(logits), reduction="none")


def member_mean(logits: Tensor) -> Tensor:
    """(M, …) logits → (…) logit of the members' mean probability."""
    mean = torch.sigmoid(logits).mean(0).clamp(1e-6, 1 - 1e-6)
    return mean.log() - torch.log1p(-mean)
