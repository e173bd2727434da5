"""The rules of the agents, which need no model."""

import json
from collections.abc import Sequence
from typing import Any

from examples.agents.agent import Agent
from examples.agents.answer import Answer, Message, Usage, estimated_tokens
from examples.agents.facts import read_facts
from examples.agents.toolbox import Toolbox


class Rules:
    """Lets each agent work by its own program. The tokens are estimates."""

    def answer(self, agent: Agent[Any], messages: Sequence[Message], tools: Toolbox, options: dict[str, Any]) -> Answer:
        facts = read_facts([message.text for message in messages if message.role == "user"], agent.facts_type)
        result = agent.work(facts, tools)
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        reasoning = estimated_tokens(tools.told)
        usage = Usage(
            prompt_tokens=sum(estimated_tokens(message.text) for message in messages),
            completion_tokens=estimated_tokens(text) + reasoning,
            reasoning_tokens=reasoning,
        )
        return Answer(text=text, model=agent.name, usage=usage)
