"""What is handed to others, and the proof that it is what it says."""
