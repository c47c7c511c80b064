
"use strict";
const sheet = JSON.parse(document.getElementById("sheet").textContent);
const byId = (id) => document.getElementById(id);
const YES_OR_NO = { y: "yes", n: "no" };
const SIDES = { a: "A", b: "B", t: "tie" };
let rater = 0, items = [], place = 0, answers = {}, warned = false;

/* An answer is kept as it is given, each item under its own name: a second tab of this page takes nothing away. */
function keyOf(item) {
  return `review ${sheet.id} ${rater} ${item.id}`;
}

function load() {
  answers = {};
  for (const item of items) {
    try {
      answers[item.id] = JSON.parse(localStorage.getItem(keyOf(item))) || {};
    } catch {
      answers[item.id] = {};
    }
  }
}

function keep(item) {
  try {
    localStorage.setItem(keyOf(item), JSON.stringify(answers[item.id]));
    return true;
  } catch {
    warn("This browser keeps no answers for this page: export before you close it, or use another browser.");
    return false;
  }
}

function warn(text) {
  byId("warning").textContent = text;
  byId("warning").hidden = false;
}

function questionsOf(item) {
  const pair = item.drafts.length === 2;
  return sheet.columns.filter((name) => (name === "better") === pair);
}

function countOpen(item) {
  return questionsOf(item).filter((name) => !(name in answers[item.id])).length;
}

function show(id) {
  for (const part of ["start", "work", "end"]) byId(part).hidden = part !== id;
  window.scrollTo(0, 0);
}

function showItem() {
  const item = items[place], pair = item.drafts.length === 2;
  const singles = items.filter((other) => other.drafts.length === 1).length;
  byId("heading").textContent = pair ? `Pair ${place - singles + 1} of ${items.length - singles}`
    : `Draft ${place + 1} of ${singles}`;
  byId("problem").textContent = item.problem;
  byId("name-a").textContent = pair ? "Draft A" : "Draft";
  byId("draft-a").textContent = item.drafts[0] || "(empty)";
  byId("draft-b").textContent = pair ? item.drafts[1] || "(empty)" : "";
  byId("second").hidden = byId("about-pair").hidden = !pair;
  byId("about-draft").hidden = pair;
  byId("work").classList.toggle("pair", pair);
  byId("back").disabled = place === 0;
  for (const input of document.querySelectorAll(".question input")) {
    input.checked = answers[item.id][input.name] === input.value;
  }
  say("");
  showProgress();
  show("work");
  byId("heading").focus();
}

function showProgress() {
  const done = items.filter((item) => countOpen(item) === 0).length;
  byId("progress").textContent = `Rater ${rater}: ${done} of ${items.length} answered`;
  byId("bar").max = items.length;
  byId("bar").value = done;
}

function showEnd() {
  const open = items.filter((item) => countOpen(item) > 0).length;
  byId("left").textContent = open ? `${open} of ${items.length} have an open question.`
    : "Everything is answered. Export your answers, and send the file to whoever gave you this page.";
  byId("open").hidden = open === 0;
  show("end");
  byId("end-heading").focus();
}

function say(text) {
  byId("notice").textContent = text;
  warned = text !== "";
}

function begin() {
  const chosen = document.querySelector("#raters input:checked");
  if (!chosen) {
    byId("found").textContent = "Choose your number first.";
    document.querySelector("#raters input").focus();
    return;
  }
  rater = Number(chosen.value);
  items = sheet.raters[rater - 1];
  load();
  try {
    localStorage.setItem(`review ${sheet.id}`, String(rater));
  } catch {
    warn("This browser keeps no answers for this page: export before you close it, or use another browser.");
  }
  place = items.findIndex((item) => countOpen(item) > 0);
  if (place < 0) showEnd();
  else showItem();
}

function next() {
  const open = countOpen(items[place]);
  if (open && !warned) {
    say(`${open === 1 ? "One question is" : `${open} questions are`} open. Next once more leaves ${open === 1 ? "it" : "them"} so.`);
    return;
  }
  place += 1;
  if (place < items.length) showItem();
  else showEnd();
}

function back() {
  if (place > 0) {
    place -= 1;
    showItem();
  }
}

function goToOpen() {
  const first = items.findIndex((item) => countOpen(item) > 0);
  place = first < 0 ? items.length - 1 : first;
  showItem();
}

/* The question that a key answers: the one in focus if the key fits it, else the first open one that it fits. */
function choose(value) {
  const takes = (box) => box.querySelector(`input[value="${value}"]`);
  const boxes = [...document.querySelectorAll(".question")].filter((box) => takes(box) && box.offsetParent);
  const focused = document.activeElement.closest(".question");
  const box = boxes.includes(focused) ? focused : boxes.find((box) => !box.querySelector(":checked")) || boxes.at(-1);
  if (!box) return;
  takes(box).checked = true;
  takes(box).dispatchEvent(new Event("change", { bubbles: true }));
  const open = [...document.querySelectorAll(".question")].find((box) => box.offsetParent && !box.querySelector(":checked"));
  (open ? open.querySelector("input") : byId("next")).focus();
}

function exportAnswers() {
  const columns = ["sheet", "rater", "item", ...sheet.columns];
  const lines = items.map((item) => [sheet.id, rater, item.id, ...sheet.columns.map((name) => answers[item.id][name] || "")]);
  const text = [columns, ...lines].map((cells) => cells.join(",")).join("\r\n") + "\r\n";
  const name = `ratings-rater-${rater}.csv`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  byId("exported").textContent = `Exported as ${name}, where this browser puts downloads.`;
  if (!byId("work").hidden) byId("notice").textContent = byId("exported").textContent;
}

function showStart() {
  show("start");
  const input = document.querySelector("#raters input:checked") || document.querySelector("#raters input");
  input.focus({ preventScroll: true });
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key, on = byId("keys").checked, isButton = event.target.closest("button");
  const doing = (action) => {
    event.preventDefault();
    action();
  };
  if (!byId("start").hidden) {
    if (key === "Enter" && !isButton) doing(begin);
  } else if (!byId("end").hidden) {
    if (key === "Backspace") doing(goToOpen);
    else if (key === "e" && on) doing(exportAnswers);
  } else if (key === "Enter" && !isButton) doing(next);
  else if (key === "Backspace") doing(back);
  else if (!on) return;
  else if (key === "e") doing(exportAnswers);
  else if (key === "h") doing(showStart);
  else if (key in YES_OR_NO) doing(() => choose(YES_OR_NO[key]));
  else if (key in SIDES) doing(() => choose(SIDES[key]));
  else if (/^[1-5]$/.test(key)) doing(() => choose(key));
}

function changed(event) {
  const item = items[place];
  answers[item.id][event.target.name] = event.target.value;
  if (keep(item)) say("");
  showProgress();
}

function offerRaters() {
  let last = null;
  try {
    last = localStorage.getItem(`review ${sheet.id}`);
  } catch {
    warn("This browser keeps no answers for this page: export before you close it, or use another browser.");
  }
  sheet.raters.forEach((_, index) => {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "rater", value: String(index + 1), checked: last === String(index + 1) });
    label.append(input, ` Rater ${index + 1}`);
    document.querySelector("#raters .choices").append(label);
  });
  byId("found").textContent = last ? "Your answers are here: Enter goes on where you stopped." : "";
}

byId("begin").addEventListener("click", begin);
byId("next").addEventListener("click", next);
byId("back").addEventListener("click", back);
byId("help").addEventListener("click", showStart);
byId("open").addEventListener("click", goToOpen);
for (const button of document.querySelectorAll(".export")) button.addEventListener("click", exportAnswers);
for (const box of document.querySelectorAll(".question")) box.addEventListener("change", changed);
document.addEventListener("keydown", pressed);
offerRaters();
showStart();
