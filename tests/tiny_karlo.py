"""A randomly initialised UnCLIP pipeline of Karlo's own classes, small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import UnCLIPImageVariationPipeline, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)


def build_tiny_karlo(folder: Path, *, dim: int = 32, seed: int = 0) -> UnCLIPImageVariationPipeline:
    """Save a pipeline for embeddings of width `dim` in `folder`, and return it; 8, then 16 pixels."""
    torch.manual_seed(seed)
    files = folder / "words"
    files.mkdir(parents=True)
    words = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>"]
    (files / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (files / "merges.txt").write_text("#version: 0.2\n")
    shared = {"num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 16}
    text = CLIPTextConfig(
        vocab_size=4,
        hidden_size=dim,
        projection_dim=dim,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **shared,
    )
    vision = CLIPVisionConfig(hidden_size=32, projection_dim=dim, image_size=8, patch_size=4, **shared)
    upscalers = [
        UNet2DModel(
            sample_size=16,
            in_channels=6,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("ResnetDownsampleBlock2D",) * 2,
            up_block_types=("ResnetUpsampleBlock2D",) * 2,
            attention_head_dim=4,
        )
        for _ in range(2)
    ]
    pipeline = UnCLIPImageVariationPipeline(
        decoder=UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=6,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=4,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        ),
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=CLIPTokenizer(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=8),
        text_proj=UnCLIPTextProjModel(clip_embeddings_dim=dim, time_embed_dim=32, cross_attention_dim=16),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        image_encoder=CLIPVisionModelWithProjection(vision),
        super_res_first=upscalers[0],
        super_res_last=upscalers[1],
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range"),
        super_res_scheduler=UnCLIPScheduler(variance_type="fixed_small_log"),
    )
    pipeline.save_pretrained(folder)
    return pipeline
