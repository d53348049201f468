"""What a training costs: raw TRL, TRL tuned by hand, other tools and llmtune on one base and one data set."""
