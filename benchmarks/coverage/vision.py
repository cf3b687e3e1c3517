"""Vision models, some with text, and speech models."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from benchmarks.coverage.architecture import BATCH, Architecture, Inputs, composed, configured, images, tokens

TRANSFORMER: Mapping[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
SWIN: Mapping[str, object] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
STAGES: Mapping[str, object] = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2]}
SEGFORMER: Mapping[str, object] = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 32,
    "num_labels": 5,
}
RESNET_BACKBONE: tuple[str, Mapping[str, object]] = ("ResNetConfig", {**STAGES, "out_features": ["stage2"]})
DETR: Mapping[str, object] = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_queries": 6,
    "use_timm_backbone": False,
    "backbone": None,
    "use_pretrained_backbone": False,
}
DPT: Mapping[str, object] = {
    **TRANSFORMER,
    "num_hidden_layers": 4,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 16, 32, 32],
    "fusion_hidden_size": 16,
    "is_hybrid": False,
}
DINO: tuple[str, Mapping[str, object]] = (
    "Dinov2Config",
    {
        **TRANSFORMER,
        "num_hidden_layers": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
    },
)
DEPTH_ANYTHING: Mapping[str, object] = {
    "reassemble_hidden_size": 64,
    "patch_size": 8,
    "neck_hidden_sizes": [8, 16, 32, 32],
    "fusion_hidden_size": 16,
    "head_hidden_size": 8,
    "initializer_range": 0.2,
}
SAM: Mapping[str, object] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 4,
    "output_channels": 32,
    "window_size": 4,
    "global_attn_indexes": [1],
    "mlp_dim": 64,
    "initializer_range": 0.1,
}
VITDET: tuple[str, Mapping[str, object]] = (
    "VitDetConfig",
    {**TRANSFORMER, "num_channels": 4, "out_features": ["stage2"]},
)
VITMATTE: Mapping[str, object] = {
    "hidden_size": 64,
    "convstream_hidden_sizes": [8, 16],
    "fusion_hidden_sizes": [32, 16, 8],
    "initializer_range": 0.2,
}
CONVNEXT_BACKBONE: tuple[str, Mapping[str, object]] = (
    "ConvNextConfig",
    {
        "hidden_sizes": [16, 16, 32, 32],
        "depths": [1, 1, 1, 1],
        "num_stages": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
)
UPERNET: Mapping[str, object] = {"hidden_size": 16, "auxiliary_in_channels": 32, "auxiliary_channels": 16}
TEXT: Mapping[str, object] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "eos_token_id": 255,
}
WHISPER: Mapping[str, object] = {
    "vocab_size": 256,
    "d_model": 64,
    "num_mel_bins": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_source_positions": 32,
    "max_target_positions": 32,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
SPECTROGRAM: Mapping[str, object] = {
    **{key: value for key, value in TRANSFORMER.items() if key != "image_size"},
    "max_length": 32,
    "num_mel_bins": 16,
    "frequency_stride": 8,
    "time_stride": 8,
}
WAVE: Mapping[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}


def _pixels(size: int = 32) -> Callable[[], Inputs]:
    return lambda: {"pixel_values": images(size)}


def _masked_pixels() -> Inputs:
    return {"pixel_values": images(64), "pixel_mask": torch.ones(BATCH, 64, 64, dtype=torch.int64)}


def _pixels_and_text() -> Inputs:
    ids = tokens(8, 255)
    ids[:, -1] = 255
    return {"input_ids": ids, "pixel_values": images(32)}


def _wave() -> Inputs:
    return {"input_values": torch.randn(BATCH, 800)}


def _spectrum() -> Inputs:
    return {"input_features": torch.randn(BATCH, 16, 64), "decoder_input_ids": tokens(6)}


def _vision(name: str, prefix: str, head: str, settings: Mapping[str, object], size: int = 32) -> Architecture:
    labelled = {"num_labels": 32, **settings}
    return Architecture(name, "vision", configured(f"{prefix}{head}", f"{prefix}Config", labelled), _pixels(size))


def _pair(name: str, prefix: str, head: str = "Model", settings: Mapping[str, object] | None = None) -> Architecture:
    parts = {"text_config": (f"{prefix}TextConfig", TEXT), "vision_config": (f"{prefix}VisionConfig", TRANSFORMER)}
    build = composed(f"{prefix}{head}", f"{prefix}Config", parts, settings or {})
    return Architecture(name, "text-image", build, _pixels_and_text)


VISION: tuple[Architecture, ...] = (
    _vision("vit", "ViT", "ForImageClassification", TRANSFORMER),
    _vision("deit", "DeiT", "ForImageClassification", TRANSFORMER),
    _vision("beit", "Beit", "ForImageClassification", {**TRANSFORMER, "use_relative_position_bias": True}),
    _vision("dinov2", "Dinov2", "Model", TRANSFORMER),
    _vision("dinov3", "DINOv3ViT", "Model", TRANSFORMER),
    _vision("swin", "Swin", "ForImageClassification", SWIN),
    _vision("swinv2", "Swinv2", "ForImageClassification", SWIN),
    _vision("swin2sr", "Swin2SR", "ForImageSuperResolution", {**SWIN, "patch_size": 1, "upscale": 2}, 16),
    _vision(
        "convnext", "ConvNext", "ForImageClassification", {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2}
    ),
    _vision("convnextv2", "ConvNextV2", "Model", {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2}),
    _vision("resnet", "ResNet", "ForImageClassification", STAGES),
    _vision(
        "bit",
        "Bit",
        "ForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4},
        64,
    ),
    _vision("regnet", "RegNet", "ForImageClassification", {**STAGES, "groups_width": 8}),
    _vision("mobilenet_v2", "MobileNetV2", "ForImageClassification", {"depth_multiplier": 0.25}, 64),
    _vision(
        "efficientnet",
        "EfficientNet",
        "ForImageClassification",
        {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        64,
    ),
    _vision(
        "mobilevit",
        "MobileViT",
        "ForImageClassification",
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32], "image_size": 64},
        64,
    ),
    _vision(
        "swiftformer",
        "SwiftFormer",
        "ForImageClassification",
        {"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
        64,
    ),
    _vision("sam_encoder", "SamVision", "Model", SAM),
    _vision("segformer", "Segformer", "ForSemanticSegmentation", SEGFORMER),
    _vision(
        "pvt_v2",
        "PvtV2",
        "ForImageClassification",
        {
            "hidden_sizes": [16, 16, 40, 40],
            "num_attention_heads": [1, 2, 5, 5],
            "depths": [1, 1, 1, 1],
            "image_size": 64,
        },
        64,
    ),
    _vision("dpt", "DPT", "ForDepthEstimation", DPT),
    Architecture(
        "depth_anything",
        "vision",
        composed("DepthAnythingForDepthEstimation", "DepthAnythingConfig", {"backbone_config": DINO}, DEPTH_ANYTHING),
        _pixels(),
    ),
    Architecture(
        "vitmatte",
        "vision",
        composed("VitMatteForImageMatting", "VitMatteConfig", {"backbone_config": VITDET}, VITMATTE),
        lambda: {"pixel_values": images(32, 4)},
    ),
    Architecture(
        "upernet",
        "vision",
        composed("UperNetForSemanticSegmentation", "UperNetConfig", {"backbone_config": CONVNEXT_BACKBONE}, UPERNET),
        _pixels(64),
    ),
    Architecture(
        "videomae",
        "vision",
        configured("VideoMAEForVideoClassification", "VideoMAEConfig", {**TRANSFORMER, "num_frames": 4}),
        lambda: {"pixel_values": torch.randn(BATCH, 4, 3, 32, 32)},
    ),
    Architecture(
        "detr",
        "vision",
        composed("DetrForObjectDetection", "DetrConfig", {"backbone_config": RESNET_BACKBONE}, DETR),
        _masked_pixels,
    ),
    _vision("yolos", "Yolos", "ForObjectDetection", {**TRANSFORMER, "image_size": [32, 32], "num_detection_tokens": 4}),
    _pair("clip", "CLIP"),
    _pair("siglip", "Siglip"),
    _pair("owlvit", "OwlViT", "ForObjectDetection", {"projection_dim": 64}),
)
SPEECH: tuple[Architecture, ...] = (
    Architecture(
        "whisper", "speech", configured("WhisperForConditionalGeneration", "WhisperConfig", WHISPER), _spectrum
    ),
    Architecture(
        "spectrogram_transformer",
        "speech",
        configured("ASTForAudioClassification", "ASTConfig", SPECTROGRAM),
        lambda: {"input_values": torch.randn(BATCH, 32, 16)},
    ),
    Architecture("wavlm", "speech", configured("WavLMModel", "WavLMConfig", WAVE), _wave),
    Architecture("wav2vec2", "speech", configured("Wav2Vec2Model", "Wav2Vec2Config", WAVE), _wave),
    Architecture("hubert", "speech", configured("HubertModel", "HubertConfig", WAVE), _wave),
    Architecture("conformer", "speech", configured("Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig", WAVE), _wave),
)
