"""What a trained model is once it is registered: its files, versions, aliases and the gate."""
