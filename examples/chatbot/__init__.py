"""A chatbot: an encoder-decoder with attention that learned a small dialogue corpus, on a web page.

    pip install "npdl[chat]"
    python examples/chatbot train       # two minutes; writes the folder chatbot-model
    python examples/chatbot evaluate    # how many questions and paraphrases it answers right
    python examples/chatbot ask "Hello"
    python examples/chatbot serve       # a page to talk to it, at http://127.0.0.1:8000

`corpus` reads the questions and answers, `words` turns texts into words, `network` trains,
`talker` answers, and `server` shows it.
"""
