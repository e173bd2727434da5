"""What tokens cost."""

from agent_pipelines.core.event import Usage


def price(usage: Usage, model: str | None) -> Usage:
    """The usage with its cost in US dollars, where the runtime did not say it and the model's price is known.

    Prices come from the `genai-prices` package, which ships its own table. An unknown price stays unknown.
    """
    if usage.cost_usd is not None or model is None or usage.input_tokens is None or usage.output_tokens is None:
        return usage
    # Half a second to import: only where something is to be priced.
    from genai_prices import Usage as Priced
    from genai_prices import calc_price

    tokens = Priced(
        input_tokens=usage.input_tokens, cache_read_tokens=usage.cached_input_tokens, output_tokens=usage.output_tokens
    )
    try:
        cost = calc_price(tokens, model_ref=model)
    except LookupError:
        return usage
    return usage.model_copy(update={"cost_usd": float(cost.total_price)})
