"""Names that TRL's files are written in: every field of its configs from 0.13 to 1.16, and of TrainingArguments.

Read from the wheels (trl 0.13.0 to 1.16.0; transformers 4.45.2 to 5.23.0); facts, not code.
"""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# GRPOConfig, and in neither SFTConfig nor DPOConfig.
GRPO_ONLY = words(
    "cache_implementation cast_lm_head_to_fp32 chat_template_kwargs delta ds3_gather_for_generation entropy_coef "
    "entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target epsilon epsilon_high "
    "generation_batch_size generation_kwargs importance_sampling_level log_completions log_completions_hub_repo "
    "log_multimodal log_unique_prompts mask_truncated_completions max_tool_calling_iterations min_p "
    "multi_objective_aggregation num_completions_to_print num_generations num_generations_eval num_iterations "
    "off_policy_mask_threshold repetition_penalty reward_funcs reward_model_name_or_path reward_weights "
    "sapo_temperature_neg sapo_temperature_pos scale_rewards steps_per_generation temperature "
    "top_entropy_quantile top_k top_p transformers_continuous_batching_config use_adaptive_entropy "
    "use_bias_correction_kl use_transformers_continuous_batching use_transformers_paged use_vllm vespo_k_neg "
    "vespo_k_pos vespo_lambda_neg vespo_lambda_pos vllm_device vllm_dtype vllm_enable_prefix_caching "
    "vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_group_port vllm_guided_decoding_regex "
    "vllm_importance_sampling_cap vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min "
    "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_max_model_len vllm_max_model_length "
    "vllm_mode vllm_model_impl vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout "
    "vllm_structured_outputs_regex vllm_tensor_parallel_size wandb_log_unique_prompts"
)
# DPOConfig, and in neither of the others.
DPO_ONLY = words(
    "base_model_attribute_name discopop_tau f_alpha_divergence_coef f_divergence_type force_use_ref_model "
    "generate_during_eval is_encoder_decoder label_pad_token_id label_smoothing ld_alpha loss_weights "
    "max_target_length model_adapter_name padding_value precompute_ref_batch_size precompute_ref_log_probs "
    "ref_adapter_name ref_model_init_kwargs reference_free rpo_alpha tools use_logits_to_keep "
    "use_num_logits_to_keep use_weighting"
)
# SFTConfig, and in neither of the others.
SFT_ONLY = words(
    "assistant_only_loss chars_per_token chat_template_path completion_only_loss dataset_batch_size "
    "dataset_kwargs dataset_text_field eos_token eval_packing max_seq_length num_of_sequences packing "
    "packing_strategy use_liger"
)
# Several of them.
SHARED = words(
    "activation_offloading beta dataset_num_proc disable_dropout loss_type max_completion_length max_length "
    "max_prompt_length model_init_kwargs pad_to_multiple_of pad_token padding_free ref_model_mixup_alpha "
    "ref_model_sync_steps router_aux_loss_coef shuffle_dataset sync_ref_model truncation_mode use_liger_loss"
)
# ModelConfig.
MODEL_CONFIG = words(
    "attn_implementation bnb_4bit_quant_storage bnb_4bit_quant_type dtype load_in_4bit load_in_8bit lora_alpha "
    "lora_dropout lora_modules_to_save lora_r lora_target_modules lora_target_parameters lora_task_type "
    "model_name_or_path model_revision torch_dtype trust_remote_code use_bnb_nested_quant use_dora use_peft "
    "use_rslora"
)
# ScriptArguments and DatasetMixtureConfig.
SCRIPT_ARGUMENTS = words(
    "dataset_config dataset_name dataset_streaming dataset_test_split dataset_train_split datasets "
    "gradient_checkpointing_use_reentrant ignore_bias_buffers streaming test_split_size"
)
# transformers.TrainingArguments.
TRAINING_ARGUMENTS = words(
    "accelerator_config activation_checkpointing activation_checkpointing_kwargs adafactor adam_beta1 adam_beta2 "
    "adam_epsilon auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval "
    "data_seed dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers "
    "dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend "
    "ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug "
    "deepspeed disable_tqdm dispatch_batches do_eval do_predict do_train enable_jit_checkpoint "
    "eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_steps eval_strategy "
    "eval_use_gather_object evaluation_strategy fp16 fp16_backend fp16_full_eval fp16_opt_level fsdp fsdp_config "
    "fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap full_determinism gradient_accumulation_steps "
    "gradient_checkpointing gradient_checkpointing_kwargs greater_is_better group_by_length "
    "half_precision_backend hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token "
    "ignore_data_skip include_for_metrics include_inputs_for_metrics include_num_input_tokens_seen "
    "include_tokens_per_second jit_mode_eval label_names label_smoothing_factor learning_rate length_column_name "
    "liger_kernel_config load_best_model_at_end local_rank log_level log_level_replica log_on_each_node "
    "logging_dir logging_first_step logging_nan_inf_filter logging_steps logging_strategy lr_scheduler_kwargs "
    "lr_scheduler_type max_grad_norm max_steps metric_for_best_model mp_parameters neftune_noise_alpha no_cuda "
    "num_train_epochs optim optim_args optim_target_modules output_dir overwrite_output_dir parallelism_config "
    "past_index per_device_eval_batch_size per_device_train_batch_size per_gpu_eval_batch_size "
    "per_gpu_train_batch_size prediction_loss_only project push_to_hub push_to_hub_model_id "
    "push_to_hub_organization push_to_hub_token ray_scope remove_unused_columns report_to "
    "restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node save_only_model "
    "save_safetensors save_steps save_strategy save_total_limit seed skip_memory_metrics split_batches tf32 "
    "torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps torchdynamo tp_size "
    "tpu_metrics_debug tpu_num_cores trackio_bucket_id trackio_space_id trackio_static_space_id "
    "train_sampling_strategy use_cache use_cpu use_ipex use_legacy_prediction_loop use_liger_kernel "
    "use_mps_device warmup_ratio warmup_steps weight_decay"
)
# Of the command line: `config` and `env` are TrlParser's, the others go to `accelerate launch`.
LAUNCH = frozenset({"config", "env", "accelerate_config", "num_processes", "config_file"})
KNOWN = GRPO_ONLY | DPO_ONLY | SFT_ONLY | SHARED | MODEL_CONFIG | SCRIPT_ARGUMENTS | TRAINING_ARGUMENTS | LAUNCH
