"""A recurrent network with the inputs and outputs of the Intent Transformer: a baseline."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.intent.features import EVENT_INPUTS, USER_FEATURES
from pipelines.models.intent.transformer import AUXILIARIES, IntentConfig


class IntentGru(nn.Module):
    """Logits for every position of a window, as IntentTransformer gives them."""

    def __init__(self, config: IntentConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.members = nn.ModuleList(
            nn.ModuleDict(
                {
                    "recurrent": nn.GRU(EVENT_INPUTS, d, batch_first=True),
                    "user": nn.Linear(2 * len(USER_FEATURES), d, bias=False),
                    "up": nn.Linear(d, 4 * d),
                    "head": nn.Linear(4 * d, 2 + AUXILIARIES),
                }
            )
            for _ in range(config.members)
        )

    def forward(self, events: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, inputs), (B, T, user) → (M, B, T, 2) and (M, B, T, AUXILIARIES)."""
        found = torch.stack([self._one(member, events, user) for member in self.members])
        return found[..., :2], found[..., 2:]

    def _one(self, member: nn.Module, events: Tensor, user: Tensor) -> Tensor:
        parts = dict(member.named_children())
        state, _ = parts["recurrent"](events)  # (B, T, D)
        x = F.dropout(state, self.config.dropout, self.training) + parts["user"](user)
        hidden = F.relu(parts["up"](x))  # (B, T, 4D)
        out: Tensor = parts["head"](F.dropout(hidden, self.config.dropout, self.training))
        return out
