"""Numbers as people read them: 1.23M tokens, 4 min 05 s, 3.2 GiB, $12.40."""


def count(value: float) -> str:
    """12_345_678 -> "12.3M"; below a thousand the number itself."""
    for limit, suffix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= 0.9995 * limit:  # three digits of it would be rounded up to the limit
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds -> "0.4 s", "42 s", "4 min 05 s", "3 h 12 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(num_bytes: float) -> str:
    """Bytes -> "512 B", "12.3 MiB"."""
    for limit, suffix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= limit:
            return f"{num_bytes / limit:.1f} {suffix}"
    return f"{num_bytes:.0f} B"


def exact_dollars(usd: float) -> str:
    """Cents where they tell enough, else three figures: $12.30, $0.00042."""
    return dollars(usd) if usd >= 1 or usd == 0 else f"${usd:.3g}"


def dollars(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 0.01 or usd == 0 else "less than $0.01"
