"""POEM: prototype-oriented expansion matching, up to the two decoders' maps."""

import torch
from torch import Tensor, nn

from models.precision import full_precision, upcast
from models.prototypes import AREA_EPSILON, Prototypes
from models.similarity import Similarity, cosine_similarity, pooling_weights, sharpness

N_SCALAR_MAPS = 3  # pooled, summed and global similarity
MERGE_DROPOUT = 0.2
CLASSIFIER_DROPOUT = 0.1


class Decoder(nn.Module):
    """Decode the matching of one class to a map of logits."""

    def __init__(self, *, feature_width: int) -> None:
        super().__init__()
        width = feature_width
        self.merge = nn.Sequential(
            nn.Conv2d(2 * width + N_SCALAR_MAPS, width, kernel_size=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Dropout2d(MERGE_DROPOUT),
        )
        self.res1 = nn.Sequential(nn.Conv2d(width, width, kernel_size=1, bias=False), nn.ReLU(inplace=True))
        self.res2 = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.ReLU(inplace=True),
        )
        self.cls = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Dropout2d(CLASSIFIER_DROPOUT),
            nn.Conv2d(width, 1, kernel_size=1, bias=False),
        )

    def forward(self, matching: Tensor) -> Tensor:
        """Map `(N, 2C + 3, h, w)` to logits `(N, 1, h, w)`."""
        x = self.res1(self.merge(matching))
        return self.cls(x + self.res2(x))


class ExpansionMatching(nn.Module):
    """Expand prototypes towards the query, match them with mined features, decode.

    Args:
        feature_width: channels `C`.
        expansion: False keeps the support's prototypes as they are.
    """

    def __init__(self, *, feature_width: int, expansion: bool = True) -> None:
        super().__init__()
        self.expansion = expansion
        self.expand_bg = nn.Linear(1, 1)
        self.decoder_bg = Decoder(feature_width=feature_width)
        self.decoder_fg = Decoder(feature_width=feature_width)

    def forward(
        self,
        similarity: Similarity,
        prototypes: tuple[Prototypes, Prototypes],
        mined: tuple[Tensor, Tensor],
        prior_masks: tuple[Tensor, Tensor],
        *,
        tau_query: Tensor,
    ) -> Tensor:
        """Return the logits of background and foreground.

        Args:
            similarity: the module with the learnable `alpha`.
            prototypes: of background and foreground, for `B` episodes.
            mined: features of background and foreground, each `(B, Q, C, h, w)`.
            prior_masks: refined masks of background and foreground, each `(B, Q, h, w)`.
            tau_query: `(B, Q, 2)`.

        Returns:
            `(B, Q, 2, h, w)`.
        """
        strength = tau_query[..., 1:]
        with full_precision(strength):
            strengths = (self.expand_bg(strength), strength)
        decoders = (self.decoder_bg, self.decoder_fg)
        logits = []
        for index, decoder in enumerate(decoders):
            global_, region = self._expand(
                prototypes[index], mined[index], prior_masks[index], strengths[index]
            )
            matching = match(
                similarity,
                mined[index],
                global_=global_,
                region=region,
                valid=prototypes[index].valid[:, None],
                factor=sharpness(tau_query),
                n_shots=prototypes[index].n_shots,
            )
            logits.append(decoder(matching.flatten(0, 1)).unflatten(0, matching.shape[:2]))
        return torch.cat(logits, dim=2)

    def _expand(
        self, prototypes: Prototypes, mined: Tensor, prior_mask: Tensor, strength: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Move the prototypes towards the query.

        Global ones are `(B, Q, C)`, region ones `(B, Q, P, C)`.
        """
        global_, region = prototypes.global_[:, None], prototypes.region[:, None]
        n_queries = mined.shape[1]
        if not self.expansion:
            return global_.expand(-1, n_queries, -1), region.expand(-1, n_queries, -1, -1)
        with full_precision(mined):
            total = (upcast(mined).flatten(-2) @ prior_mask.flatten(-2)[..., None])[..., 0]
        query_mean = total / (prior_mask.sum(dim=(-1, -2)) + AREA_EPSILON)[..., None]
        step = torch.sigmoid(strength) * query_mean
        return global_ + step, region + step[:, :, None]


def match(
    similarity: Similarity,
    mined: Tensor,
    *,
    global_: Tensor,
    region: Tensor,
    valid: Tensor,
    factor: Tensor,
    n_shots: int,
) -> Tensor:
    """Match mined features with expanded prototypes: the decoder's input.

    Args:
        mined: `(B, Q, C, h, w)`.
        global_: `(B, Q, C)`.
        region: `(B, Q, P, C)`.
        valid: `(B, 1, P)` bool; where no region prototype counts, all sums over them are 0.
        factor: `k`, `(B, Q)`.
        n_shots: `s_sum` is the mean over so many shots, so that equal shots give what one gives.

    Returns:
        `[F_c, matched, s_att, s_sum, s_glob]`, `(B, Q, 2C + 3, h, w)`.
    """
    mined = upcast(mined)
    flat = mined.flatten(-2)
    with full_precision(mined):
        compared = similarity(region, flat)
        weights = pooling_weights(compared, factor, valid)
        matched = weights.transpose(-1, -2) @ region
        scalars = (
            (weights * compared).sum(dim=-2),
            (compared * valid[..., None]).sum(dim=-2) / n_shots,
            cosine_similarity(global_, flat),
        )
    # Channels stand innermost, as the convolutions that follow want them.
    maps = torch.cat([flat.transpose(-1, -2), matched, torch.stack(scalars, dim=-1)], dim=-1)
    return maps.transpose(-1, -2).unflatten(-1, mined.shape[-2:])
