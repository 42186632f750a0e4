"use strict";

// All that is shown is put in as text, never as HTML.

const $ = (id) => document.getElementById(id);
const STORE = "npdl-chatbot";
const PACE = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 60; // ms for a word
const PATIENCE = 30000; // ms

let turns = [];
let busy = false;

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function percent(p) {
  if (p >= 0.995) return "100 %";
  if (p >= 0.01) return `${Math.round(p * 100)} %`;
  return p >= 0.001 ? `${(p * 100).toFixed(1)} %` : "< 0.1 %";
}

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

// ------------------------------------------------------------------------------ conversation

function bubbles(question) {
  $("intro").hidden = true;
  $("clear").hidden = false;
  const mine = make("li", undefined, "mine");
  mine.append(make("span", "You: ", "unseen"), make("span", question));
  const theirs = make("li", undefined, "theirs");
  const text = make("span", "", "text waiting");
  theirs.append(make("span", "Chatbot: ", "unseen"), text);
  $("turns").append(mine, theirs);
  scrollDown();
  return { mine, theirs, text };
}

function scrollDown() {
  $("log").scrollTop = $("log").scrollHeight;
}

/** Finish the bubble of an answer: its text, and a button that shows how it came about. */
function settle(bubble, turn) {
  bubble.text.classList.remove("waiting");
  bubble.text.textContent = turn.answer || "It says nothing.";
  bubble.text.classList.toggle("silent", !turn.answer);
  const button = make("button", "Look inside");
  button.type = "button";
  button.setAttribute("aria-label", `Look inside the answer: ${turn.answer}`);
  button.addEventListener("click", () => {
    look(turn, bubble.theirs);
    $("inside-title").scrollIntoView({ block: "nearest" });
    $("inside-title").focus({ preventScroll: true });
  });
  bubble.theirs.append(button);
  look(turn, bubble.theirs);
  scrollDown();
}

function keep() {
  try {
    sessionStorage.setItem(STORE, JSON.stringify(turns.slice(-50)));
  } catch {
    // Without storage a reload begins a new conversation.
  }
}

function recall() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORE) || "[]");
    for (const turn of stored) settle(bubbles(turn.question), turn);
    turns = stored;
  } catch {
    clear();
  }
}

function clear() {
  turns = [];
  keep();
  $("turns").replaceChildren();
  $("intro").hidden = false;
  $("clear").hidden = true;
  $("inside").hidden = true;
  $("hint").hidden = false;
  complain("");
}

// ------------------------------------------------------------------------ inside the answer

function look(turn, bubble) {
  for (const other of document.querySelectorAll("[aria-current]")) {
    other.removeAttribute("aria-current");
  }
  bubble.setAttribute("aria-current", "true");
  $("hint").hidden = true;
  $("inside").hidden = false;
  $("asked").textContent = turn.question;
  const strange = turn.words.filter((word, i) => !turn.known[i]);
  $("unknown").textContent = `It has never met: ${strange.join(", ")}.`;
  $("unknown").hidden = strange.length === 0;
  drawMap(turn);
  drawBest(turn);
}

function drawMap(turn) {
  const head = make("tr");
  head.append(make("td"));
  turn.words.forEach((word, i) => {
    const cell = make("th", undefined, turn.known[i] ? "" : "strange");
    cell.scope = "col";
    cell.append(make("span", word));
    head.append(cell);
  });
  const sure = make("th");
  sure.scope = "col";
  sure.append(make("span", "probability"));
  head.append(sure);
  const body = make("tbody");
  const most = Math.max(...turn.steps.flatMap((step) => step.attention));
  for (const step of turn.steps) {
    const row = make("tr");
    const name = make("th", step.word.trim() || "(end)");
    name.scope = "row";
    row.append(name);
    step.attention.forEach((weight, i) => {
      const cell = make("td", undefined, "cell");
      cell.style.setProperty("--weight", String(weight / most));
      cell.title = `${step.word.trim() || "(end)"} ← ${turn.words[i]}: ${percent(weight)}`;
      cell.append(make("span", percent(weight), "unseen"));
      row.append(cell);
    });
    row.append(make("td", percent(step.probability), "sure"));
    body.append(row);
  }
  const top = make("thead");
  top.append(head);
  $("map").replaceChildren(top, body);
}

function drawBest(turn) {
  $("best").replaceChildren(
    ...turn.best.map((answer) => {
      const item = make("li", undefined, answer.text === turn.answer ? "chosen" : "");
      const rod = make("div", undefined, "rod");
      const bar = make("i");
      bar.style.setProperty("--share", `${100 * answer.probability}%`);
      rod.append(bar);
      item.append(make("span", answer.text), make("span", percent(answer.probability), "percent"), rod);
      return item;
    }),
  );
}

// --------------------------------------------------------------------------------- asking

/** Yield the lines of a response, parsed, as they come. */
async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

async function answerTo(question, temperature, bubble, signal) {
  let response;
  try {
    response = await fetch("ask", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ question, temperature }),
      signal,
    });
  } catch {
    throw new Error("The server does not answer. Is it still running? Your question is kept below.");
  }
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(told.error || `The server answers with status ${response.status}.`);
  }
  const turn = { question, steps: [] };
  try {
    for await (const line of linesOf(response)) {
      if (line.words) Object.assign(turn, line);
      else if (line.best) return Object.assign(turn, line);
      else {
        turn.steps.push(line);
        bubble.text.textContent += line.word;
        scrollDown();
        if (line.word) await pause(PACE);
      }
    }
  } catch {
    // It ends below.
  }
  throw new Error("The answer broke off. Please ask again.");
}

async function send(question) {
  if (busy) return;
  complain("");
  if (!question) {
    complain("Please type a question first.");
    $("question").focus();
    return;
  }
  busy = true;
  $("send").setAttribute("aria-disabled", "true");
  $("status").textContent = "";
  const sampled = $("form").elements.mode.value === "sampled";
  const temperature = sampled ? Number($("temperature").value) : 0;
  const bubble = bubbles(question);
  $("question").value = "";
  count();
  const patience = new AbortController();
  const timer = setTimeout(() => patience.abort(), PATIENCE);
  try {
    const turn = await answerTo(question, temperature, bubble, patience.signal);
    turns.push(turn);
    settle(bubble, turn);
    keep();
    $("status").textContent = `Chatbot: ${turn.answer || "It says nothing."}`;
  } catch (error) {
    bubble.mine.remove();
    bubble.theirs.remove();
    if (!turns.length) clear();
    complain(error.message);
    if (!$("question").value) $("question").value = question;
    count();
  } finally {
    clearTimeout(timer);
    busy = false;
    $("send").removeAttribute("aria-disabled");
    $("question").focus();
  }
}

function count() {
  const { length } = $("question").value;
  const most = $("question").maxLength;
  $("count").textContent = length > most * 0.7 ? `${length} of ${most} characters` : "";
}

function chooseMode() {
  const greedy = $("form").elements.mode.value === "greedy";
  $("temperature").disabled = greedy;
  $("temperature").parentElement.classList.toggle("off", greedy);
}

async function introduce() {
  try {
    const about = await (await fetch("about")).json();
    const number = (n) => n.toLocaleString("en");
    if (about.longest) $("question").maxLength = about.longest;
    if (about.parameters) {
      $("about").textContent =
        `An encoder-decoder with attention: ${number(about.parameters)} parameters, ` +
        `${number(about.questions)} questions learned.`;
    }
    if (about.corpus) $("source").textContent = `It learned from ${about.corpus}.`;
    for (const question of about.starters || []) {
      const item = make("li");
      const button = make("button", question);
      button.type = "button";
      button.addEventListener("click", () => send(question));
      item.append(button);
      $("starters").append(item);
    }
  } catch {
    complain("The server does not answer. Is it still running?");
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send($("question").value.trim());
});
$("form").addEventListener("change", chooseMode);
$("question").addEventListener("input", count);
$("temperature").addEventListener("input", () => {
  $("degrees").textContent = Number($("temperature").value).toFixed(1);
});
$("clear").addEventListener("click", () => {
  if (busy) return;
  clear();
  $("question").focus();
});
chooseMode();
count();
introduce();
recall();
