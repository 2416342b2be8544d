"""Tiny models of the classes that label images, with random weights, saved as transformers saves the published ones.

They find nonsense: what is tested with them is the way from images to files, not what is found.
"""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = (
    "car vehicle sedan van jeep lorry truck tractor trailer bus excavator crane bicycle motorcycle scooter person pedestrian "
    "traffic cone barricade barrier highway street island delimiter sidewalk walkway grass sand gravel terrain building wall "
    "fence pole sign light bridge billboard bush plants tree sky"
)


def write_grounded_sam(folder: Path) -> Path:
    """``folder`` with grounding-dino and sam in it."""
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
        SwinConfig,
    )

    torch.manual_seed(0)
    dino, sam = folder / "grounding-dino", folder / "sam"
    dino.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "-", *WORDS.split()]
    (dino / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = BertTokenizerFast(str(dino / "vocab.txt"))
    swin = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    bert = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=12, num_feature_levels=4,
        max_text_len=16, encoder_n_points=2, decoder_n_points=2, two_stage=True,
    )  # fmt: skip
    detector = GroundingDinoForObjectDetection(config)
    with torch.no_grad():  # scores that are told apart, not all 1.0
        detector.model.decoder.layer_norm.weight *= 0.1
    detector.save_pretrained(dino)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(dino)
    vision = SamVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16, window_size=2, mlp_dim=16,
        global_attn_indexes=[0], output_channels=16, num_pos_feats=8,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16, iou_head_depth=2, num_hidden_layers=1
    )
    sam_config = SamConfig(
        vision_config=vision.to_dict(), prompt_encoder_config=prompt.to_dict(), mask_decoder_config=decoder.to_dict()
    )
    SamModel(sam_config).save_pretrained(sam)
    pad = {"height": 64, "width": 64}
    SamImageProcessor(size={"longest_edge": 64}, pad_size=pad).save_pretrained(sam)
    return folder


def write_depth(folder: Path, metric: bool = True) -> Path:
    """``folder`` with a Depth Anything."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=28, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, depth_estimation_type="metric" if metric else "relative", max_depth=80,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(
        size={"height": 28, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True, do_pad=False
    ).save_pretrained(folder)
    return folder
