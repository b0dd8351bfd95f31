"""The zoo of broken and honest models: what each must come out as, the runs over it, the confusion matrix."""
