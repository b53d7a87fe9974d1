"""The policy: one small network that scores every option alike, on top of the greedy rule.

score = correction − greedy, in $. The correction starts at zero, so learning starts at the greedy
rule and finds what that overlooks: the worth to later orders of what this one takes.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from pipelines.models.fulfilment.scoring import DOLLARS, LARGEST_REGRET

HIDDEN: Final = 32


class OptionScorer(nn.Module):
    """Scores options in $; the options of an order see one another through mean and best.

    Args:
        features: F, numbers per option.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.own = nn.Linear(features + 1, HIDDEN)
        self.others = nn.Linear(features + 1, HIDDEN, bias=False)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, options: Tensor, feasible: Tensor, greedy: Tensor) -> Tensor:
        """(B, O) scores in $, higher is better.

        Args:
            options: (B, O, F) encoded.
            feasible: (B, O) 0 or 1.
            greedy: (B, O) $ of the greedy rule.
        """
        return DOLLARS * self.correction(options, feasible, greedy) - greedy

    def correction(self, options: Tensor, feasible: Tensor, greedy: Tensor) -> Tensor:
        """(B, O) in units of DOLLARS: below zero is what an option takes from later orders.

        Args:
            options, feasible, greedy: as for `forward`.
        """
        none = feasible.sum(dim=1, keepdim=True) == 0
        best = torch.where(feasible > 0, greedy, torch.inf).min(dim=1, keepdim=True).values
        regret = greedy - torch.where(none, greedy, best)
        regret = regret.clamp(-LARGEST_REGRET, LARGEST_REGRET) / 10
        seen = torch.cat([options, regret[..., None]], dim=2)  # (B, O, F + 1)
        share = feasible / feasible.sum(dim=1, keepdim=True).clamp(min=1)
        mean = torch.bmm(share[:, None], seen)  # (B, 1, F + 1)
        hidden = torch.tanh(self.own(seen) + self.others(mean))
        hidden = torch.tanh(self.second(hidden))
        return self.out(hidden)[..., 0]  # type: ignore[no-any-return]  # torch types modules as Any
