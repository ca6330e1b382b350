"""Other programs that run the same weights, each as its own documents advise."""
