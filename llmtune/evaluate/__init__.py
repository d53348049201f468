"""Before and after: losses and answers on held-out, unseen and general rows."""
