"""The vectorised order desk for stable-baselines3, and the policy class that plays at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.network import OptionScorer
from pipelines.models.fulfilment.training_observation import Layout, Observer, masks

Floats = NDArray[np.float64]

REWARD_DOLLARS = 10.0
"""$ per unit of reward that the learner sees."""
_HIDDEN = 64


class Desk(VecEnv):
    """Many episodes in step, by one numpy game; when they end, all start anew together.

    The reward is minus the regret at the clairvoyant's prices: what the decision costs, the slot
    and units that it takes included, less the least that serving or losing the order could have
    cost. Over an episode that sums up to what the plan was missed by. The prices belong to the
    episode and are hidden, like the delays; they bring the cost of taking the last slot forward to
    the decision that takes it, while plain rewards show it hours and a hundred orders later.

    Args:
        make: a new game, always of the same number of episodes, with (B, T, O) $ of prices.
        weights, regions: as for `Observer`.
    """

    def __init__(
        self,
        make: Callable[[], tuple[FulfilmentGame, Floats]],
        weights: Floats,
        regions: Sequence[str],
    ) -> None:
        self._make, self._weights, self._regions = make, weights, regions
        self._deal()
        self.layout: Layout = self._observer.layout
        self._rows = np.arange(len(self._game.episodes))
        self._actions: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        super().__init__(
            len(self._game.episodes),
            spaces.Box(-np.inf, np.inf, (self.layout.size,), np.float32),
            spaces.Discrete(self.layout.options),
        )

    def _deal(self) -> None:
        self._game, self._prices = self._make()
        self._game.reset()
        self._observer = Observer(self._game, self._weights, self._regions)
        at_prices = np.where(self._game.has_route, self._game.cost + self._prices, np.inf)
        self._least = np.minimum(at_prices.min(axis=2), self._game.loss)

    def reset(self) -> NDArray[np.float32]:
        """Deal new episodes."""
        self._deal()
        return self._observer.flat()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take note of what was decided."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Carry it out in all episodes."""
        game = self._game
        now, able = game.decided, game.feasible()[self._rows, self._actions]
        taken = np.where(able, self._prices[self._rows, now, self._actions], 0.0)
        rewards = (game.step(self._actions) - taken + self._least[:, now]) / REWARD_DOLLARS
        over = np.full(self.num_envs, game.done)
        if game.done:
            self._deal()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return self._observer.flat(), rewards.astype(np.float32), over, infos

    def env_method(self, method_name: str, *_args: Any, **_kwargs: Any) -> list[Any]:
        """`action_masks` alone."""
        if method_name != "action_masks":
            raise AttributeError(method_name)
        return list(masks(self._game.feasible()))

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environments have it: they can mask actions."""
        return attr_name == "action_masks"

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Environments have no attributes of their own."""
        del attr_name, indices
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing to set, for there are no attributes.

        Args:
            attr_name: ignored.
            value: ignored.
            indices: ignored.
        """

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """They never are."""
        del wrapper_class, indices
        return [False] * self.num_envs

    def close(self) -> None:
        """Nothing to close."""


class Judge(nn.Module):
    """Scores options for the actor; the critic also reads the overview of the day.

    Args:
        layout: of the flat observation.
        sharpness: log-odds per $ between two options, in the policy that explores.
    """

    def __init__(self, layout: Layout, sharpness: float) -> None:
        super().__init__()
        self._layout, self._sharpness = layout, sharpness
        self.latent_dim_pi, self.latent_dim_vf = layout.options, _HIDDEN
        self.scorer = OptionScorer(layout.features)
        self.value = nn.Sequential(
            nn.Linear(2 * layout.features + layout.overview, _HIDDEN),
            nn.Tanh(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.Tanh(),
        )

    def parts(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, O, F), (B, O), (B, O), (B, overview) of a flat observation."""
        options, wide = self._layout.options, self._layout.options * self._layout.features
        return (
            flat[:, :wide].reshape(len(flat), options, -1),
            flat[:, wide : wide + options],
            flat[:, wide + options : wide + 2 * options],
            flat[:, wide + 2 * options :],
        )

    def forward(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and what the value is linear in."""
        return self.forward_actor(flat), self.forward_critic(flat)

    def forward_actor(self, flat: Tensor) -> Tensor:
        """(B, O) logits; what is infeasible is masked later."""
        options, feasible, greedy, _ = self.parts(flat)
        return torch.as_tensor(self._sharpness * self.scorer(options, feasible, greedy))

    def forward_critic(self, flat: Tensor) -> Tensor:
        """(B, hidden) from the mean option, the greedy rule's option and the overview."""
        options, feasible, greedy, overview = self.parts(flat)
        share = feasible / feasible.sum(dim=1, keepdim=True).clamp(min=1)
        mean = torch.bmm(share[:, None], options)[:, 0]
        first = torch.where(feasible > 0, greedy, torch.inf).argmin(dim=1)
        best = options[torch.arange(len(options)), first]
        return torch.as_tensor(self.value(torch.cat([mean, best, overview], dim=1)))


class DeskPolicy(MaskableActorCriticPolicy):
    """MaskablePPO's policy with the shared scorer in place of its networks."""

    def __init__(self, *args: Any, layout: Layout, sharpness: float, **kwargs: Any) -> None:
        self._layout, self._sharpness = layout, sharpness
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        judge = Judge(self._layout, self._sharpness)
        self.mlp_extractor = judge  # type: ignore[assignment]  # typed as their own extractor
        self.action_net = nn.Identity()
        self.value_net = nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(self.value_net.weight)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), eps=1e-5)
