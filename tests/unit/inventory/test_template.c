/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>

#include "orchestrator/inventory/template.h"

/* What the tests resolve against. */
static const char VARS[] =
	"{\"dir\":\"/srv/${node}\",\"node\":\"web01\",\"n\":7,\"yes\":true,\"no\":false,\"nil\":null,"
	"\"list\":[\"a\",\"${node}\"],\"empty\":[],\"obj\":{\"k\":\"${dir}\"},\"from.path\":\"/k\",\"cash\":\"5$$\","
	"\"late\":\"x${step.f|1}\",\"whole_late\":\"${step.f}\","
	"\"a\":\"${b}\",\"b\":\"x${c}\",\"c\":\"${a}\",\"self\":\"${self}\",\"selfif\":{\"$if\":\"${selfif}\",\"then\":"
	"1},"
	"\"d1\":\"${d2}\",\"d2\":\"${d3}\",\"d3\":\"${d4}\",\"d4\":\"${d5}\",\"d5\":\"${d6}\",\"d6\":\"${d7}\","
	"\"d7\":\"${d8}\",\"d8\":\"${d9}\",\"d9\":\"${d10}\",\"d10\":\"${d11}\",\"d11\":\"${d12}\",\"d12\":\"${d13}\","
	"\"d13\":\"${d14}\",\"d14\":\"${d15}\",\"d15\":\"${d16}\",\"d16\":\"${d17}\",\"d17\":\"end\","
	"\"l0\":\"ha\",\"l1\":\"${l0}${l0}${l0}${l0}${l0}${l0}${l0}${l0}${l0}${l0}\","
	"\"l2\":\"${l1}${l1}${l1}${l1}${l1}${l1}${l1}${l1}${l1}${l1}\","
	"\"l3\":\"${l2}${l2}${l2}${l2}${l2}${l2}${l2}${l2}${l2}${l2}\","
	"\"l4\":\"${l3}${l3}${l3}${l3}${l3}${l3}${l3}${l3}${l3}${l3}\","
	"\"l5\":\"${l4}${l4}${l4}${l4}${l4}${l4}${l4}${l4}${l4}${l4}\","
	"\"l6\":\"${l5}${l5}${l5}${l5}${l5}${l5}${l5}${l5}${l5}${l5}\","
	"\"m1\":[\"${l3}\",\"${l3}\"],\"m2\":[\"${m1}\",\"${m1}\"],\"m3\":[\"${m2}\",\"${m2}\"],\"m4\":[\"${m3}\",\"${"
	"m3}\"],"
	"\"m5\":[\"${m4}\",\"${m4}\"],\"m6\":[\"${m5}\",\"${m5}\"],\"m7\":[\"${m6}\",\"${m6}\"],\"m8\":[\"${m7}\",\"${"
	"m7}\"],"
	"\"m9\":[\"${m8}\",\"${m8}\"],\"m10\":[\"${m9}\",\"${m9}\"],\"m11\":[\"${m10}\",\"${m10}\"],"
	"\"m12\":[\"${m11}\",\"${m11}\"]}";

static cJSON *vars;

static cJSON *parse(const char *text)
{
	kt_err err = KT_ERR_INIT;
	cJSON *root = NULL;
	assert_kt_ok(kt_json_parse("t", text, strlen(text), &root, &err));
	return root;
}

static int set_up(void **state)
{
	(void)state;
	vars = parse(VARS);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	cJSON_Delete(vars);
	return 0;
}

static const cJSON *find(void *cookie, const char *name)
{
	(void)cookie;
	return cJSON_GetObjectItemCaseSensitive(vars, name);
}

static void offer(void *cookie, kt_nearest *near)
{
	(void)cookie;
	for (const cJSON *v = vars->child; v; v = v->next)
		kt_nearest_offer(near, v->string);
}

static kt_code resolve(const char *text, bool late, kt_buf *out, kt_err *err)
{
	cJSON *in = parse(text);
	cJSON *made = NULL;
	kt_scope scope = {.find = find, .offer = offer, .late = late, .keep = "scratch"};
	kt_code rc = kt_template_resolve(in, &scope, &made, err);
	if (rc == KT_OK)
		rc = kt_json_print(made, out, err);
	else
		assert_null(made);
	cJSON_Delete(made);
	cJSON_Delete(in);
	return rc;
}

static void gives(const char *text, bool late, const char *want)
{
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(resolve(text, late, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), want);
	kt_buf_free(&out);
}

static void resolves_variables(void **state)
{
	(void)state;
	gives("\"plain\"", false, "\"plain\"");
	gives("\"\"", false, "\"\"");
	gives("\"${node}\"", false, "\"web01\"");
	gives("\"${dir}/log\"", false, "\"/srv/web01/log\"");
	gives("\"${n}\"", false, "7"); /* the whole string: the value with its type */
	gives("\"n=${n} ${yes}\"", false, "\"n=7 true\"");
	gives("\"${nil}\"", false, "null");
	gives("\"${list}\"", false, "[\"a\",\"web01\"]");
	gives("\"${obj}\"", false, "{\"k\":\"/srv/web01\"}");
	gives("\"${from.path}\"", false, "\"/k\"");
	gives("{\"a\":[\"${n}\",{\"b\":\"${node}\"}],\"x${node}\":1}", false,
	      "{\"a\":[7,{\"b\":\"web01\"}],\"x${node}\":1}");
	gives("[1.5,true,null,-3]", false, "[1.5,true,null,-3]");
	gives("\"${scratch}/db\"", false, "\"${scratch}/db\"");
	gives("\"${scratch}\"", false, "\"${scratch}\"");
}

static void dollar_signs(void **state)
{
	(void)state;
	gives("\"$$\"", false, "\"$\"");
	gives("\"$${node}\"", false, "\"${node}\"");
	gives("\"$HOME a$ $\"", false, "\"$HOME a$ $\"");
	gives("\"$$$$\"", false, "\"$$\"");
	gives("\"${cash}\"", false, "\"5$\"");
	gives("\"it is ${cash}!\"", false, "\"it is 5$!\"");
	/* Before a late pass they stay escaped, once. */
	gives("\"$$\"", true, "\"$$\"");
	gives("\"$HOME\"", true, "\"$$HOME\"");
	gives("\"it is ${cash}!\"", true, "\"it is 5$$!\"");
	gives("\"$${node}\"", true, "\"$${node}\"");
}

static void keeps_results_of_steps_for_later(void **state)
{
	(void)state;
	gives("\"${step.field}\"", true, "\"${step.field}\"");
	gives("\"${step.field|true}\"", true, "\"${step.field|true}\"");
	gives("\"${node}: ${step.a.b|none}\"", true, "\"web01: ${step.a.b|none}\"");
	gives("\"${late}\"", true, "\"x${step.f|1}\"");
	gives("\"${whole_late}\"", true, "\"${step.f}\"");
}

static void operators(void **state)
{
	(void)state;
	gives("{\"$if\":\"${yes}\",\"then\":\"${node}\",\"else\":1}", false, "\"web01\"");
	gives("{\"$if\":\"${no}\",\"then\":\"${node}\",\"else\":1}", false, "1");
	gives("{\"$if\":\"${nil}\",\"then\":1}", false, "null");
	gives("{\"$if\":\"${empty}\",\"then\":1,\"else\":2}", false, "2");
	gives("{\"$if\":\"${list}\",\"then\":1,\"else\":2}", false, "1");
	gives("{\"$if\":\"\",\"then\":1,\"else\":2}", false, "2");
	gives("{\"$if\":0,\"then\":1,\"else\":2}", false, "2");
	gives("{\"$if\":\"x\",\"then\":1,\"else\":\"${unknown_is_not_looked_at}\"}", false, "1");
	gives("{\"$concat\":[[\"x\"],\"${list}\",\"${empty}\",{\"$if\":true,\"then\":[9]}]}", false,
	      "[\"x\",\"a\",\"web01\",9]");
	gives("{\"x\":{\"$concat\":[]}}", false, "{\"x\":[]}");
}

static void refuses_with(const char *text, bool late, const char *why)
{
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_fails(KT_E_INPUT, resolve(text, late, &out, &err));
	if (!strstr(err.msg, why))
		fail_msg("%s: \"%s\" does not say \"%s\"", text, err.msg, why);
	kt_buf_free(&out);
}

static void refuses(void **state)
{
	(void)state;
	refuses_with("\"${nod}\"", false, "${nod} is not known; did you mean ${node}?");
	refuses_with("\"${wobble}\"", false, "${wobble} is not known");
	refuses_with("\"${step.field}\"", false, "${step.field} is not known here");
	refuses_with("\"${from.pth}\"", false, "did you mean ${from.path}?");
	refuses_with("\"${node\"", false, "without a closing }");
	refuses_with("\"${}\"", false, "a name is missing");
	refuses_with("\"${a b}\"", false, "a name has letters");
	refuses_with("\"${a.}\"", true, "a name is missing");
	refuses_with("\"${node|x}\"", true, "only the result of a step may have a fallback");
	refuses_with("\"x${list}\"", false, "${list} is an array");
	refuses_with("\"x${nil}\"", false, "${nil} is null");
	refuses_with("\"x${obj}\"", false, "${obj} is an object");
	refuses_with("\"${a}\"", false, "variables go round in a circle: a -> b -> c -> a");
	refuses_with("\"${self}\"", false, "self -> self");
	refuses_with("\"${selfif}\"", false, "selfif -> selfif");
	refuses_with("\"${d1}\"", false, "more than 16 deep");
	refuses_with("{\"$if\":true}", false, "\"$if\" needs \"then\"");
	refuses_with("{\"$if\":true,\"then\":1,\"elze\":2}", false, "nothing more");
	refuses_with("{\"$concat\":\"x\"}", false, "must be an array of arrays");
	refuses_with("{\"$concat\":[1]}", false, "an element is not an array");
	refuses_with("{\"$concat\":[],\"x\":1}", false, "stand alone");
	refuses_with("{\"$nope\":1}", false, "\"$nope\" is not an operator");
	refuses_with("\"${l6}\"", false, "too large"); /* ten times larger at every level */
	refuses_with("\"${m12}\"", false, "too large");
}

static void names_have_a_bound(void **state)
{
	(void)state;
	char text[600];
	memset(text, 'n', sizeof text);
	memcpy(text, "\"${", 3);
	memcpy(text + 400, "}\"", 3);
	refuses_with(text, false, "the name is too long");
	memcpy(text, "\"${a.b|", 7);
	refuses_with(text, true, "the fallback is too long");
}

/* --- Late
 * ------------------------------------------------------------------------------------------------------------- */

static const cJSON *lookup(void *cookie, const char *step, const char *field)
{
	const cJSON *result = cJSON_GetObjectItemCaseSensitive(cookie, step);
	return result ? cJSON_GetObjectItemCaseSensitive(result, field) : NULL;
}

static kt_code bind(const char *text, kt_buf *out, kt_err *err)
{
	cJSON *results = parse("{\"stop\":{\"was_active\":false},\"wrap\":{\"blob\":{\"v\":1,\"x\":{\"y\":\"deep\"}},"
			       "\"label\":\"run:${node}\",\"none\":null}}");
	cJSON *in = parse(text);
	cJSON *made = NULL;
	kt_code rc = kt_template_resolve_late(in, lookup, results, &made, err);
	if (rc == KT_OK)
		rc = kt_json_print(made, out, err);
	cJSON_Delete(made);
	cJSON_Delete(in);
	cJSON_Delete(results);
	return rc;
}

/* A list by reference stays one: nothing of it is copied, and it outlives the result. */
static void binds_a_list_by_reference(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	cJSON *names = parse("[\"web01\",\"web02\"]");
	cJSON *results = parse("{\"plan\":{}}");
	cJSON *in = parse("{\"known\":\"${plan.nodes}\",\"other\":1}");
	cJSON *made = NULL;
	assert_true(cJSON_AddItemToObject(cJSON_GetObjectItem(results, "plan"), "nodes",
					  cJSON_CreateArrayReference(names->child)));
	assert_kt_ok(kt_template_resolve_late(in, lookup, results, &made, &err));
	const cJSON *known = cJSON_GetObjectItem(made, "known");
	assert_ptr_equal(known->child, names->child);
	assert_kt_ok(kt_json_print(made, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), "{\"known\":[\"web01\",\"web02\"],\"other\":1}");
	cJSON_Delete(made);
	cJSON_Delete(results);
	assert_string_equal(cJSON_GetArrayItem(names, 1)->valuestring, "web02");
	cJSON_Delete(names);
	cJSON_Delete(in);
	kt_buf_free(&out);
}

static void binds(const char *text, const char *want)
{
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(bind(text, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), want);
	kt_buf_free(&out);
}

static void binds_late(void **state)
{
	(void)state;
	binds("{\"if\":\"${stop.was_active|true}\",\"n\":1}", "{\"if\":false,\"n\":1}");
	binds("\"${stop.gone|true}\"", "true");
	binds("\"${gone.gone|null}\"", "null");
	binds("\"${gone.gone|-12}\"", "-12");
	binds("\"${gone.gone|012}\"", "\"012\""); /* not how a number is written */
	binds("\"${gone.gone|none}\"", "\"none\"");
	binds("\"${gone.gone|}\"", "\"\"");
	binds("\"is ${stop.gone|true}\"", "\"is true\"");
	binds("\"${wrap.blob}\"", "{\"v\":1,\"x\":{\"y\":\"deep\"}}");
	binds("[\"${wrap.blob.x.y}\"]", "[\"deep\"]");
	binds("\"${wrap.blob.x.z|no}\"", "\"no\"");
	binds("\"${wrap.none}\"", "null");             /* null is a value, not "none" */
	binds("\"${wrap.label}\"", "\"run:${node}\""); /* a result is taken as it is */
	binds("\"<${wrap.label}>\"", "\"<run:${node}>\"");
	binds("\"$$5 ${scratch}/x\"", "\"$5 ${scratch}/x\"");
	binds("\"${scratch}\"", "\"${scratch}\"");
	binds("[true,null,1]", "[true,null,1]");
}

static void a_missing_result_is_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_fails(KT_E_REFUSED, bind("[\"a\",{\"b\":\"${stop.gone}\"}]", &out, &err));
	assert_string_equal(err.msg, "step \"stop\" has given no \"gone\"");
	assert_kt_fails(KT_E_REFUSED, bind("\"x${wrap.blob.x.z}\"", &out, &err));
	assert_kt_fails(KT_E_INPUT, bind("\"x${wrap.blob}\"", &out, &err));
	assert_kt_fails(KT_E_INPUT, bind("\"x${wrap\"", &out, &err));
	kt_buf_free(&out);
}

/* --- References
 * ------------------------------------------------------------------------------------------------------- */

static kt_code note(void *cookie, const kt_template_ref *ref, kt_err *err)
{
	return kt_buf_printf(cookie, err, "%s=%s|%s|%s ", ref->path, ref->name, ref->field ? ref->field : "-",
			     ref->fallback ? ref->fallback : "-");
}

static void shows_references(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	cJSON *in = parse("{\"a\":[\"x\",\"${b} $${no} ${c.d}\"],\"e\":{\"f\":\"${g.h.i|j}\"},\"n\":1}");
	assert_kt_ok(kt_template_each(in, note, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), ".a[1]=b|-|- .a[1]=c|d|- .e.f=g|h.i|j ");
	cJSON_Delete(in);
	in = parse("[\"ok\",\"${\"]");
	assert_kt_fails(KT_E_INPUT, kt_template_each(in, note, &out, &err));
	cJSON_Delete(in);
	kt_buf_free(&out);
}

static void a_text_is_resolved_too(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	kt_scope scope = {.find = find};
	assert_kt_ok(kt_template_text("${node}-${n}", &scope, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), "web01-7");
	assert_kt_fails(KT_E_INPUT, kt_template_text("${list}", &scope, &out, &err));
	kt_buf_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(resolves_variables),
		cmocka_unit_test(dollar_signs),
		cmocka_unit_test(keeps_results_of_steps_for_later),
		cmocka_unit_test(operators),
		cmocka_unit_test(refuses),
		cmocka_unit_test(names_have_a_bound),
		cmocka_unit_test(binds_late),
		cmocka_unit_test(binds_a_list_by_reference),
		cmocka_unit_test(a_missing_result_is_refused),
		cmocka_unit_test(shows_references),
		cmocka_unit_test(a_text_is_resolved_too),
	};
	return cmocka_run_group_tests_name("template", tests, set_up, tear_down);
}
