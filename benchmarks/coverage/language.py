"""Language models: decoders, encoders, encoder-decoders, state spaces and other recurrences."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.coverage.architecture import Architecture, Family, Inputs, configured, tokens

SMALL: Mapping[str, object] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER: Mapping[str, object] = {**SMALL, "use_cache": False}
GROUPED: Mapping[str, object] = {**DECODER, "num_key_value_heads": 2}
WINDOW: Mapping[str, object] = {**GROUPED, "head_dim": 16, "sliding_window": 8}
EXPERTS: Mapping[str, object] = {**GROUPED, "moe_intermediate_size": 64, "num_experts_per_tok": 2}
LATENT: Mapping[str, object] = {
    **EXPERTS,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
}
GPT2: Mapping[str, object] = {
    "vocab_size": 256,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "use_cache": False,
}
BLOOM: Mapping[str, object] = {"vocab_size": 256, "hidden_size": 64, "n_layer": 2, "n_head": 4, "use_cache": False}
MAMBA: Mapping[str, object] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 8,
    "use_cache": False,
    "pad_token_id": 0,
}
T5: Mapping[str, object] = {
    "vocab_size": 256,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
}
XLM: Mapping[str, object] = {
    "vocab_size": 256,
    "n_words": 256,
    "emb_dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 64,
}
BART: Mapping[str, object] = {
    "vocab_size": 256,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
}


def _text() -> Inputs:
    return {"input_ids": tokens()}


def _masked_text() -> Inputs:
    ids = tokens()
    mask = ids.new_ones(ids.shape)
    mask[0, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _two_texts() -> Inputs:
    return {"input_ids": tokens(10), "decoder_input_ids": tokens(6)}


def _decoder(name: str, prefix: str, settings: Mapping[str, object]) -> Architecture:
    build = configured(f"{prefix}ForCausalLM", f"{prefix}Config", settings)
    return Architecture(name, "decoder", build, _text)


def _encoder(name: str, prefix: str, settings: Mapping[str, object]) -> Architecture:
    return Architecture(name, "encoder", configured(f"{prefix}Model", f"{prefix}Config", settings), _masked_text)


def _other(name: str, family: Family, prefix: str, head: str, settings: Mapping[str, object]) -> Architecture:
    inputs = _two_texts if family == "encoder-decoder" else _text
    return Architecture(name, family, configured(f"{prefix}{head}", f"{prefix}Config", settings), inputs)


LANGUAGE: tuple[Architecture, ...] = (
    _decoder("llama", "Llama", GROUPED),
    _decoder("mistral", "Mistral", WINDOW),
    _decoder("qwen2", "Qwen2", GROUPED),
    _decoder("qwen3", "Qwen3", {**GROUPED, "head_dim": 16}),
    _decoder("gemma2", "Gemma2", {**WINDOW, "query_pre_attn_scalar": 16}),
    Architecture(
        "gemma3",
        "decoder",
        configured("Gemma3ForCausalLM", "Gemma3TextConfig", {**WINDOW, "query_pre_attn_scalar": 16}),
        _text,
    ),
    _decoder("gemma", "Gemma", {**GROUPED, "head_dim": 16}),
    _decoder("nemotron", "Nemotron", {**GROUPED, "head_dim": 16}),
    _decoder("bitnet", "BitNet", GROUPED),
    _decoder("diffllama", "DiffLlama", GROUPED),
    _decoder("phi", "Phi", DECODER),
    _decoder("phi3", "Phi3", GROUPED),
    _decoder("olmo2", "Olmo2", GROUPED),
    _decoder("cohere", "Cohere", GROUPED),
    _decoder("stablelm", "StableLm", GROUPED),
    _decoder("glm4", "Glm4", {**GROUPED, "head_dim": 16}),
    _decoder("gptneox", "GPTNeoX", DECODER),
    _other("gpt2", "decoder", "GPT2", "LMHeadModel", GPT2),
    _decoder("gpt_bigcode", "GPTBigCode", GPT2),
    _decoder("gptj", "GPTJ", {**GPT2, "rotary_dim": 8}),
    _decoder("opt", "OPT", {**DECODER, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    _decoder("bloom", "Bloom", BLOOM),
    _decoder("mpt", "Mpt", {"vocab_size": 256, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    _decoder("falcon", "Falcon", {**BLOOM, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True}),
    _decoder("mixtral", "Mixtral", {**EXPERTS, "num_local_experts": 4}),
    _decoder("qwen3_moe", "Qwen3Moe", {**EXPERTS, "num_experts": 4, "head_dim": 16}),
    _decoder("olmoe", "Olmoe", {**EXPERTS, "num_experts": 4}),
    _decoder(
        "minimax",
        "MiniMax",
        {**GROUPED, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 8},
    ),
    _decoder("gpt_oss", "GptOss", {**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}),
    _decoder("deepseek_v2", "DeepseekV2", {**LATENT, "topk_method": "greedy"}),
    _decoder("deepseek_v3", "DeepseekV3", {**LATENT, "n_group": 2, "topk_group": 1}),
    _other("mamba", "recurrent", "Mamba", "ForCausalLM", MAMBA),
    _other("mamba2", "recurrent", "Mamba2", "ForCausalLM", {**MAMBA, "num_heads": 4, "head_dim": 16, "n_groups": 2}),
    _other("rwkv", "recurrent", "Rwkv", "ForCausalLM", {**MAMBA, "attention_hidden_size": 32, "context_length": 64}),
    _other(
        "recurrent_gemma",
        "recurrent",
        "RecurrentGemma",
        "ForCausalLM",
        {**GROUPED, "lru_width": 64, "attention_window_size": 8, "block_types": ["recurrent", "attention"]},
    ),
    _encoder("bert", "Bert", SMALL),
    _encoder("roberta", "Roberta", SMALL),
    _encoder("deberta", "DebertaV2", {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    _encoder("albert", "Albert", {**SMALL, "embedding_size": 32}),
    _encoder("electra", "Electra", {**SMALL, "embedding_size": 32}),
    _encoder("xlnet", "XLNet", {"vocab_size": 256, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128}),
    _encoder("xlm", "XLM", XLM),
    _other("fnet", "encoder", "FNet", "Model", SMALL),
    _encoder("modernbert", "ModernBert", {**SMALL, "global_attn_every_n_layers": 2}),
    _encoder(
        "distilbert", "DistilBert", {"vocab_size": 256, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
    ),
    _other("t5", "encoder-decoder", "T5", "ForConditionalGeneration", T5),
    _other("bart", "encoder-decoder", "Bart", "ForConditionalGeneration", BART),
)
