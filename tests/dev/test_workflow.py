from dev.workflow import to_prompt

INFO = {
    "Sampler": {
        "display_name": "Sampler",
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
                "kind": [["a", "b"], {}],
            }
        },
    },
    "Rule": {
        "display_name": "Rule",
        "input": {
            "required": {
                "rule": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "one", "inputs": {"required": {"amount": ["FLOAT", {}]}}},
                            {"key": "none", "inputs": {}},
                        ]
                    },
                ],
                "text": ["STRING", {}],
            }
        },
    },
}


def test_links_and_widgets_become_inputs_and_what_the_page_alone_knows_is_left_out() -> None:
    workflow = {
        "nodes": [
            {
                "id": 1,
                "type": "Sampler",
                "inputs": [{"name": "model", "link": 7}, {"name": "steps", "link": None}],
                "widgets_values": [5, "fixed", 20, "b"],
            },
            {"id": 2, "type": "Rule", "title": "The rule", "widgets_values": ["one", 0.5, "x"]},
            {"id": 3, "type": "MarkdownNote", "widgets_values": ["hello"]},
            {"id": 4, "type": "Rule", "mode": 2, "widgets_values": ["none", "y"]},
        ],
        "links": [[7, 2, 0, 1, 0, "MODEL"]],
    }
    assert to_prompt(workflow, INFO) == {
        "1": {
            "class_type": "Sampler",
            "inputs": {"seed": 5, "steps": 20, "kind": "b", "model": ["2", 0]},
            "_meta": {"title": "Sampler"},
        },
        "2": {
            "class_type": "Rule",
            "inputs": {"rule": "one", "rule.amount": 0.5, "text": "x"},
            "_meta": {"title": "The rule"},
        },
    }
