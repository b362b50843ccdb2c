"""The order of tokens in Hiera: squares inside squares, so that most windows are consecutive tokens.

The tokens of a stage are sorted by squares of falling sides, row by row. Then a window with one of these sides is a run
of tokens, and so are the four tokens that a pooling joins. Both need no more than another shape. Norms, linear layers
and attention do not depend on the order.

Letters: B images, G side of a stage's grid in tokens, C channels, w side of a window, n = ceil(G/w) windows along each
axis.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from model_store.hiera_shape import STAGES, HieraShape


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """The order of the tokens of one stage.

    Args:
        grid: Side of the grid, in tokens.
        sides: Falling sides of the squares, of at least 2 tokens. Each divides the one before, the first one the grid.
    """

    grid: int
    sides: tuple[int, ...]

    def pooled(self) -> "TokenOrder":
        """Return the order after a pooling of 2x2 tokens."""
        return TokenOrder(self.grid // 2, tuple(side // 2 for side in self.sides if side > 2))

    def tokens_of_map(self, x: Tensor) -> Tensor:
        """(B, C, G, G) -> (B*G*G, C)."""
        channels = int(x.shape[1])
        rows = x.reshape(-1, channels, self.grid**2).transpose(1, 2)  # (B, G*G, C)
        return self._bands_moved(rows, self._tokens(device=x.device))

    def map_of_tokens(self, tokens: Tensor) -> Tensor:
        """(B*G*G, C) -> (B, C, G, G)."""
        channels = int(tokens.shape[1])
        rows = self._bands_moved(tokens, self._places(device=tokens.device)).reshape(-1, self.grid**2, channels)
        return rows.transpose(1, 2).reshape(-1, channels, self.grid, self.grid)

    def cut(self, tokens: Tensor, window: int) -> Tensor:
        """Return the tokens of all windows, with zeros beyond the grid: (B*G*G, C) -> (B*n*n, w*w, C).

        Args:
            tokens: Tokens in this order, (B*G*G, C).
            window: Side of a window, in tokens.
        """
        channels = int(tokens.shape[1])
        if not self._has_runs_of(window):
            with_zeros = functional.pad(tokens.reshape(-1, self.grid**2, channels), (0, 0, 0, 1))  # (B, G*G + 1, C)
            tokens = with_zeros[:, self._window_places(window, device=tokens.device)]
        return tokens.reshape(-1, window * window, channels)

    def join(self, windows: Tensor, window: int) -> Tensor:
        """Return the tokens of a map that was cut into windows: (B*n*n, w*w, C) -> (B*G*G, C).

        Args:
            windows: Tokens of all windows, (B*n*n, w*w, C).
            window: Side of a window, in tokens.
        """
        channels = int(windows.shape[2])
        if not self._has_runs_of(window):
            windows = windows.reshape(-1, (self._count(window) * window) ** 2, channels)
            windows = windows[:, self._places_in_windows(window, device=windows.device)]
        return windows.reshape(-1, channels)

    def _has_runs_of(self, window: int) -> bool:
        """Return whether the windows of this side are consecutive tokens."""
        return window == self.grid or window in self.sides

    def _bands_moved(self, tokens: Tensor, indices: Tensor) -> Tensor:
        """Return tokens (B*G*G, C) in another order, which is the same in each band of squares.

        Args:
            tokens: Tokens of maps, of any shape (…, C).
            indices: Index among all tokens of a map of the token at each place, (G*G,).
        """
        channels = int(tokens.shape[-1])
        if not self.sides:
            return tokens.reshape(-1, channels)
        # A traced graph stores the indices, so those of one band instead of all.
        band = self.sides[0] * self.grid
        return tokens.reshape(-1, band, channels)[:, indices[:band]].reshape(-1, channels)

    def _tokens(self, *, device: torch.device) -> Tensor:
        """Return the row-major index of the token at each place, (G*G,)."""
        factors = self._factors()
        axes = [axis for level in range(len(factors)) for axis in (level, level + len(factors))]
        return torch.arange(self.grid**2, device=device).reshape(*factors, *factors).permute(axes).reshape(-1)

    def _places(self, *, device: torch.device) -> Tensor:
        """Return the place of each token, row by row, (G*G,): the inverse of `_tokens`."""
        factors = self._factors()
        pairs = [factor for factor in factors for _axis in range(2)]
        axes = [*range(0, len(pairs), 2), *range(1, len(pairs), 2)]
        return torch.arange(self.grid**2, device=device).reshape(pairs).permute(axes).reshape(-1)

    def _window_places(self, window: int, *, device: torch.device) -> Tensor:
        """Return the place of each token of all windows, (n*n*w*w,); G*G for tokens beyond the grid."""
        count = self._count(window)
        beyond = count * window - self.grid
        rows = self._places(device=device).reshape(self.grid, self.grid)
        padded = functional.pad(rows, (0, beyond, 0, beyond), value=self.grid**2)
        return padded.reshape(count, window, count, window).transpose(1, 2).reshape(-1)

    def _places_in_windows(self, window: int, *, device: torch.device) -> Tensor:
        """Return the index in `_window_places` of the token at each place, (G*G,)."""
        count = self._count(window)
        side = count * window
        indices = torch.arange(side**2, device=device).reshape(count, count, window, window)
        rows = indices.transpose(1, 2).reshape(side, side)[: self.grid, : self.grid]
        return rows.reshape(-1)[self._tokens(device=device)]

    def _count(self, window: int) -> int:
        """Return the number of windows along each axis, n."""
        return -(-self.grid // window)

    def _factors(self) -> list[int]:
        """Return the numbers of squares along an axis of the square around them, from the outermost to the tokens."""
        return [outer // inner for outer, inner in pairwise((self.grid, *self.sides, 1))]


def stage_orders(shape: HieraShape, grid: int) -> tuple[TokenOrder, ...]:
    """Return the orders of the stages, each of which is the one before after a pooling.

    Args:
        shape: Size of the network.
        grid: Side of the grid of the first stage, in tokens; a multiple of 8.
    """
    # Windows that need no padding, in tokens of the first stage. Larger ones than the grid are padded, too.
    windows = {window << stage for stage, window in enumerate(shape.windows) if grid % (window << stage) == 0}
    poolings = {2**stage for stage in range(1, STAGES)}
    order = TokenOrder(grid, tuple(sorted(windows | poolings, reverse=True)))
    orders = [order]
    for _stage in range(1, STAGES):
        order = order.pooled()
        orders.append(order)
    return tuple(orders)
