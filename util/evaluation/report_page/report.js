"use strict";
// Marks of queries: kept in this browser, exported as JSON.
const storageKey = "hcpmnet-marks-" + document.body.dataset.marksId;
const thumbnails = [...document.querySelectorAll(".thumbnail")];
const keys = { p: "pass", f: "fail", a: "artifact", u: "" };
let marks = {};
try {
  marks = JSON.parse(localStorage.getItem(storageKey)) || {};
} catch (error) {
  marks = {}; // storage is forbidden or damaged: marks last as long as the page
}

function show() {
  for (const item of thumbnails) {
    const mark = marks[item.dataset.key] || "";
    item.dataset.marked = mark;
    for (const button of item.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.mark === mark));
    }
  }
  for (const output of document.querySelectorAll(".count")) {
    const own = [...output.closest("section").querySelectorAll(".thumbnail")];
    const count = (mark) => own.filter((item) => item.dataset.marked === mark).length;
    output.textContent = `${count("pass")} pass, ${count("fail")} fail, ${count("artifact")} artifact, ${count("")} unmarked`;
  }
}

function setMark(item, mark) {
  if (mark) marks[item.dataset.key] = mark;
  else delete marks[item.dataset.key];
  try {
    localStorage.setItem(storageKey, JSON.stringify(marks));
  } catch (error) {
    // As above.
  }
  show();
}

function focusOn(item) {
  for (const other of item.parentElement.children) other.tabIndex = other === item ? 0 : -1;
  item.focus();
}

function move(item, key) {
  const items = [...item.parentElement.children];
  const perRow = items.filter((other) => other.offsetTop === items[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow };
  const next = items[items.indexOf(item) + steps[key]];
  if (next) focusOn(next);
}

for (const item of thumbnails) {
  item.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    focusOn(item);
    if (button) setMark(item, marks[item.dataset.key] === button.dataset.mark ? "" : button.dataset.mark);
  });
  item.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow")) move(item, event.key);
    else if (event.key.toLowerCase() in keys) setMark(item, keys[event.key.toLowerCase()]);
    else return;
    event.preventDefault();
  });
}

function exportMarks() {
  const numeric = ["fold", "query", "dice", "confidence"];
  const value = ([name, text]) => [name, numeric.includes(name) ? Number(text) : text];
  const fields = ({ key, marked, ...facts }) =>
    ({ ...Object.fromEntries(Object.entries(facts).map(value)), mark: marked || null });
  const content = { report: document.body.dataset.title, marks: thumbnails.map((item) => fields(item.dataset)) };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  link.download = "marks.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const button of document.querySelectorAll(".export")) button.addEventListener("click", exportMarks);
// Paper has nothing to click on.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
show();
