"""What happens inside one cell: its folder, training, evaluation, tracking, figures, and a second look at it when it is done."""
