"""The calls of diffusers' denoisers that are traced, with the inputs of a graph as arguments."""

from typing import Any, ClassVar

from torch import Tensor, nn


class Call(nn.Module):
    """The call that is traced: the arguments of ``forward`` are the inputs, in their order.

    The attribute's name becomes the prefix of every parameter.
    """

    component: ClassVar[str] = "transformer"

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.add_module(self.component, denoiser)

    def answer(self, *given: Any, **named: Any) -> Tensor:
        """Of the denoiser."""
        out: Tensor = self.get_submodule(self.component)(*given, **named, return_dict=False)[0]
        return out


class CallUNet(Call):
    """Stable Diffusion 1.x, 2.x and SDXL; the two last are SDXL's."""

    component: ClassVar[str] = "unet"

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """Noise prediction, shape of ``sample`` (b, c, h, w)."""
        added = None
        if text_embeds is not None:
            # diffusers joins it with float32 time embeddings; ONNX Runtime refuses mixed types
            added = {"text_embeds": text_embeds.float(), "time_ids": time_ids}
        return self.answer(
            sample, timestep.reshape(1), encoder_hidden_states, added_cond_kwargs=added
        )


class CallPixArt(Call):
    """PixArt-alpha and -sigma; alpha at 1024 pixels has the two last."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        timestep: Tensor,
        resolution: Tensor | None = None,
        aspect_ratio: Tensor | None = None,
    ) -> Tensor:
        """Noise prediction and variance (b, 2 c, h, w) of ``hidden_states`` (b, c, h, w)."""
        return self.answer(
            hidden_states,
            encoder_hidden_states,
            timestep,
            added_cond_kwargs={"resolution": resolution, "aspect_ratio": aspect_ratio},
            encoder_attention_mask=encoder_attention_mask,
        )


class CallStableDiffusion3(Call):
    """Stable Diffusion 3 and 3.5."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
    ) -> Tensor:
        """Velocity, shape of ``hidden_states`` (b, c, h, w)."""
        return self.answer(hidden_states, encoder_hidden_states, pooled_projections, timestep)


class CallFlux(Call):
    """FLUX.1; dev has ``guidance``."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        txt_ids: Tensor,
        img_ids: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Velocity, shape of ``hidden_states`` (b, tokens, 4 c)."""
        return self.answer(
            hidden_states,
            encoder_hidden_states,
            pooled_projections,
            timestep,
            img_ids,
            txt_ids,
            guidance,
        )
