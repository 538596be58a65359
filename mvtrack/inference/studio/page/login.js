const field = document.getElementById("password"), wrong = document.getElementById("wrong");

document.getElementById("login").onsubmit = async event => {
  event.preventDefault();
  const answer = await fetch("/login", { method: "POST", body: field.value });
  if (answer.ok) location.href = "/";
  else {
    wrong.hidden = false;
    wrong.textContent = (await answer.json()).error;
  }
};
