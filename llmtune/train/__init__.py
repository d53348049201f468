"""Training: TRL's SFTTrainer with a PEFT adapter on a bitsandbytes base, under DeepSpeed ZeRO."""
