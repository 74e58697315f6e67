"""Why a network says what it says: attribution, what its layers see, what it is reminded of, what it can do without."""
