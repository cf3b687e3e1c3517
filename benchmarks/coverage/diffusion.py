"""Denoisers and autoencoders of diffusion pipelines."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmarks.coverage.architecture import BATCH, Architecture, Inputs, diffusing, images

UNET: Mapping[str, object] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
UNET2D: Mapping[str, object] = {
    **UNET,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
}
CONDITIONED: Mapping[str, object] = {
    **UNET,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
AUTOENCODER: Mapping[str, object] = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 16,
}
TRANSFORMER: Mapping[str, object] = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
}
DIT: Mapping[str, object] = {**TRANSFORMER, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10}
PIXART: Mapping[str, object] = {
    **TRANSFORMER,
    "sample_size": 8,
    "patch_size": 2,
    "cross_attention_dim": 64,
    "caption_channels": 32,
    "out_channels": 8,
    "use_additional_conditions": False,
}
SD3: Mapping[str, object] = {
    **TRANSFORMER,
    "sample_size": 8,
    "patch_size": 2,
    "joint_attention_dim": 32,
    "caption_projection_dim": 64,
    "pooled_projection_dim": 32,
    "pos_embed_max_size": 8,
}
FLUX: Mapping[str, object] = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 6, 6),
}
COGVIDEO: Mapping[str, object] = {
    **TRANSFORMER,
    "time_embed_dim": 16,
    "text_embed_dim": 32,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 5,
    "max_text_seq_length": 6,
}
WAN: Mapping[str, object] = {
    **TRANSFORMER,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 128,
    "rope_max_seq_len": 32,
}

SANA: Mapping[str, object] = {
    **TRANSFORMER,
    "num_layers": 1,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 32,
    "cross_attention_dim": 64,
    "caption_channels": 32,
    "sample_size": 8,
    "mlp_ratio": 2.0,
}
DEEP_AUTOENCODER: Mapping[str, object] = {
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (16, 32),
    "decoder_block_out_channels": (16, 32),
    "encoder_layers_per_block": (1, 1),
    "decoder_layers_per_block": (1, 1),
    "encoder_qkv_multiscales": ((), (5,)),
    "decoder_qkv_multiscales": ((), (5,)),
}


def _times() -> torch.Tensor:
    return torch.randint(0, 1000, (BATCH,))


def _text(length: int = 6, width: int = 32) -> torch.Tensor:
    return torch.randn(BATCH, length, width)


def _sample() -> Inputs:
    return {"sample": images(16, 4), "timestep": _times()}


def _conditioned() -> Inputs:
    return {**_sample(), "encoder_hidden_states": _text()}


def _picture() -> Inputs:
    return {"sample": images(16, 3)}


def _labelled() -> Inputs:
    return {"hidden_states": images(8, 4), "timestep": _times(), "class_labels": torch.randint(0, 10, (BATCH,))}


def _captioned() -> Inputs:
    return {"hidden_states": images(8, 4), "encoder_hidden_states": _text(), "timestep": _times()}


def _pooled() -> Inputs:
    return {**_captioned(), "pooled_projections": torch.randn(BATCH, 32)}


def _packed() -> Inputs:
    places = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), -1).reshape(16, 2)
    return {
        "hidden_states": torch.randn(BATCH, 16, 4),
        "encoder_hidden_states": _text(),
        "pooled_projections": torch.randn(BATCH, 32),
        "timestep": torch.rand(BATCH),
        "img_ids": torch.cat([torch.zeros(16, 1), places.float()], 1),
        "txt_ids": torch.zeros(6, 3),
    }


def _film(channels_first: bool) -> torch.Tensor:
    return torch.randn(BATCH, 4, 2, 8, 8) if channels_first else torch.randn(BATCH, 2, 4, 8, 8)


DIFFUSION: tuple[Architecture, ...] = (
    Architecture("unet", "diffusion", diffusing("UNet2DModel", UNET2D), _sample),
    Architecture("unet_conditioned", "diffusion", diffusing("UNet2DConditionModel", CONDITIONED), _conditioned),
    Architecture("autoencoder_kl", "diffusion", diffusing("AutoencoderKL", AUTOENCODER), _picture),
    Architecture("dit", "diffusion", diffusing("DiTTransformer2DModel", DIT), _labelled),
    Architecture("pixart", "diffusion", diffusing("PixArtTransformer2DModel", PIXART), _captioned),
    Architecture("sd3", "diffusion", diffusing("SD3Transformer2DModel", SD3), _pooled),
    Architecture("flux", "diffusion", diffusing("FluxTransformer2DModel", FLUX), _packed),
    Architecture(
        "cogvideox",
        "diffusion",
        diffusing("CogVideoXTransformer3DModel", COGVIDEO),
        lambda: {"hidden_states": _film(False), "encoder_hidden_states": _text(), "timestep": _times()},
    ),
    Architecture(
        "wan",
        "diffusion",
        diffusing("WanTransformer3DModel", WAN),
        lambda: {"hidden_states": _film(True), "timestep": _times(), "encoder_hidden_states": _text()},
    ),
    Architecture("autoencoder_dc", "diffusion", diffusing("AutoencoderDC", DEEP_AUTOENCODER), _picture),
    Architecture("sana", "diffusion", diffusing("SanaTransformer2DModel", SANA), _captioned),
)
