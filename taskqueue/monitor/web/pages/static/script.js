// Shows times in the browser's zone, keeps live parts up to date, and gives the keyboard ways. Every page works
// without this script.
"use strict";

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
const FOCUSABLE = "a[href], button, input, summary, [tabindex]";

// --- times ---

function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    const exact = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    element.title = `${exact} (${element.dateTime})`;
    element.textContent = element.classList.contains("relative") ? relative(at) : at.toLocaleString();
  }
}

function relative(at) {
  const seconds = (Date.now() - at) / 1000;
  const [size, unit] = UNITS.find(([size]) => Math.abs(seconds) >= size) ?? [1, "s"];
  const text = `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

// --- live parts ---

// Replaces the part's HTML; focus, selected rows, opened details and the end of the output stay.
function replacePart(part, html) {
  const checked = new Set([...part.querySelectorAll("input:checked")].map((each) => each.value));
  const focused = [...part.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  const opened = [...part.querySelectorAll("details")].map((each) => each.open);
  const log = part.querySelector(".log");
  const scrolled = log && log.scrollTop;
  const isAtEnd = !log || log.scrollHeight - log.scrollTop - log.clientHeight < 30;
  part.innerHTML = html;
  showTimes(part);
  for (const each of part.querySelectorAll("input[type=checkbox]")) each.checked = checked.has(each.value);
  const details = [...part.querySelectorAll("details")];
  if (details.length === opened.length) details.forEach((each, place) => { each.open = opened[place]; });
  const newLog = part.querySelector(".log");
  if (newLog) newLog.scrollTop = isAtEnd ? newLog.scrollHeight : scrolled;
  if (focused >= 0) part.querySelectorAll(FOCUSABLE)[focused]?.focus({ preventScroll: true });
}

// Follows the page's live part, if it has one, and the notices above it, over one connection.
function follow() {
  const part = document.querySelector("main [data-live]");
  const notices = document.getElementById("notices");
  if (!notices?.dataset.live) return; // nobody is logged in
  let source = null;
  let isPaused = false;

  function connect() {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource((part && !isPaused ? part : notices).dataset.live);
    source.addEventListener("notices", (event) => { notices.innerHTML = JSON.parse(event.data); });
    source.onmessage = (event) => {
      if (!getSelection().isCollapsed) return; // the user copies
      replacePart(part, JSON.parse(event.data));
      if (part.querySelector(".over")) location.reload(); // its buttons are others now
    };
  }

  if (part) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain live";
    const name = () => {
      button.textContent = isPaused ? "Follow" : "Pause";
      button.setAttribute("aria-label", isPaused ? "Follow live figures" : "Pause live figures");
    };
    button.addEventListener("click", () => { isPaused = !isPaused; name(); connect(); });
    name();
    part.before(button);
  }
  document.addEventListener("visibilitychange", connect);
  connect();
}

// --- keyboard ---

function isTyping(element) {
  return element.matches("input, select, textarea");
}

document.addEventListener("keydown", (event) => {
  const isPalette = (event.key === "k" && (event.ctrlKey || event.metaKey)) || (event.key === "/" && !isTyping(event.target));
  const field = document.getElementById("find");
  if (!isPalette || !field) return;
  event.preventDefault();
  field.focus();
  field.select();
});

// --- what the field at the top may mean ---

// Suggests screens, types and ids while the user types (WAI-ARIA, pattern "combobox with a listbox popup").
function suggest(field) {
  const list = document.createElement("ul");
  Object.assign(list, { id: "suggestions", role: "listbox", hidden: true });
  list.setAttribute("aria-label", "Suggestions");
  field.placeholder = "Find: press /";
  field.setAttribute("role", "combobox");
  field.setAttribute("aria-autocomplete", "list");
  field.setAttribute("aria-controls", list.id);
  field.parentElement.append(list);
  let chosen = -1;
  let timer = 0;

  function choose(place) {
    chosen = place;
    [...list.children].forEach((each, number) => each.setAttribute("aria-selected", String(number === place)));
    field.setAttribute("aria-activedescendant", place < 0 ? "" : list.children[place].id);
    list.children[place]?.scrollIntoView({ block: "nearest" });
  }

  function show(suggestions) {
    list.replaceChildren(...suggestions.map((each, number) => {
      const option = document.createElement("li");
      Object.assign(option, { id: `suggestion-${number}`, role: "option" });
      option.dataset.address = each.address;
      const kind = document.createElement("span");
      kind.className = "hint";
      kind.textContent = ` ${each.kind}`;
      option.append(each.text, kind);
      option.addEventListener("mousedown", (event) => { event.preventDefault(); location.href = each.address; });
      return option;
    }));
    list.hidden = !suggestions.length;
    field.setAttribute("aria-expanded", String(!list.hidden));
    choose(-1);
  }

  async function ask() {
    const word = field.value.trim();
    const answer = word && await fetch(`/suggest?q=${encodeURIComponent(word)}`);
    const found = answer && answer.ok ? (await answer.json()).suggestions : [];
    if (word === field.value.trim()) show(document.activeElement === field ? found : []);
  }

  field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 150); });
  field.addEventListener("blur", () => show([]));
  field.addEventListener("keydown", (event) => {
    const number = list.children.length;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && number) choose(chosen < 0 && step < 0 ? number - 1 : (chosen + step + number) % number);
    else if (event.key === "Enter" && chosen >= 0) location.href = list.children[chosen].dataset.address;
    else if (event.key === "Escape" && number) show([]);
    else return;
    event.preventDefault();
  });
  show([]);
}

// --- buttons that only a script can offer ---

function offerCopies() {
  for (const code of document.querySelectorAll("code.copied")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    });
    code.after(" ", button);
  }
}

function offerSelectAll() {
  for (const box of document.querySelectorAll("input.select-all")) {
    box.hidden = false;
    box.addEventListener("change", () => {
      for (const each of box.closest("table").querySelectorAll("tbody input[type=checkbox]")) each.checked = box.checked;
    });
  }
}

showTimes(document);
setInterval(() => showTimes(document), 10000);
follow();
offerCopies();
document.querySelectorAll("#find").forEach(suggest);
offerSelectAll();
