"""Front-ends: what turns a model of another framework into a Program at stage traced."""
