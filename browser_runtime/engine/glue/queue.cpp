// llama.cpp's server_queue and server_response for one thread: the same class, but nothing waits.
// Upstream's queue has a loop of its own and a helper thread; here the caller drives it: start_loop() makes one round
// (all new tasks, then at most one batch) and returns, and a reader that has no result yet gets nullptr.
#include "server-queue.h"
#include "server-task.h"

#include <algorithm>

int server_queue::post(server_task && task, bool front) {
    std::vector<server_task> tasks;
    const int task_id = task.id;
    tasks.push_back(std::move(task));
    post(std::move(tasks), front);
    return task_id;
}

int server_queue::post(std::vector<server_task> && tasks, bool front) {
    for (auto & task : tasks) {
        if (task.id == -1) {
            task.id = id++;
        }
        if (task.type == SERVER_TASK_TYPE_CANCEL) {
            cleanup_pending_task(task.id_target);
        }
        if (front) {
            queue_tasks.push_front(std::move(task));
        } else {
            queue_tasks.push_back(std::move(task));
        }
    }
    return 0;
}

void server_queue::defer(server_task && task) {
    queue_tasks_deferred.push_back(std::move(task));
}

int server_queue::get_new_id() {
    return id++;
}

void server_queue::pop_deferred_task(int id_slot) {
    if (queue_tasks_deferred.empty()) {
        return;
    }
    // prefer a task that asked for the slot that became free, else the oldest
    auto it = std::find_if(queue_tasks_deferred.begin(), queue_tasks_deferred.end(),
                           [id_slot](const server_task & task) { return task.id_slot == id_slot; });
    if (it == queue_tasks_deferred.end()) {
        it = queue_tasks_deferred.begin();
    }
    queue_tasks.push_front(std::move(*it));
    queue_tasks_deferred.erase(it);
}

void server_queue::wait_until_no_sleep() {}

void server_queue::terminate() {
    running = false;
}

bool server_queue::process_new_tasks(bool is_yielding) {
    while (!queue_tasks.empty()) {
        server_task task = std::move(queue_tasks.front());
        queue_tasks.pop_front();
        callback_new_task(std::move(task), is_yielding);
    }
    return !running;
}

void server_queue::yield_to_queue(std::function<void()> && work) {
    work();
}

void server_queue::start_loop(int64_t /*idle_sleep_ms*/) {
    running = true;
    process_new_tasks(false);
    callback_update_slots();
}

void server_queue::worker_stop() {}

void server_queue::cleanup_pending_task(int id_target) {
    const auto is_target = [id_target](const server_task & task) { return task.id == id_target; };
    queue_tasks.erase(std::remove_if(queue_tasks.begin(), queue_tasks.end(), is_target), queue_tasks.end());
    queue_tasks_deferred.erase(std::remove_if(queue_tasks_deferred.begin(), queue_tasks_deferred.end(), is_target),
                               queue_tasks_deferred.end());
}

void server_response::add_waiting_task_id(int id_task) {
    waiting_task_ids.insert(id_task);
}

void server_response::add_waiting_task_ids(const std::unordered_set<int> & id_tasks) {
    waiting_task_ids.insert(id_tasks.begin(), id_tasks.end());
}

void server_response::remove_waiting_task_id(int id_task) {
    waiting_task_ids.erase(id_task);
    queue_results.erase(std::remove_if(queue_results.begin(), queue_results.end(),
                                       [id_task](const server_task_result_ptr & result) { return result->id == id_task; }),
                        queue_results.end());
}

void server_response::remove_waiting_task_ids(const std::unordered_set<int> & id_tasks) {
    for (const int id_task : id_tasks) {
        remove_waiting_task_id(id_task);
    }
}

server_task_result_ptr server_response::recv_with_timeout(const std::unordered_set<int> & id_tasks, int /*timeout*/) {
    const auto it = std::find_if(queue_results.begin(), queue_results.end(),
                                 [&](const server_task_result_ptr & result) { return id_tasks.count(result->id) > 0; });
    if (it == queue_results.end()) {
        return nullptr;
    }
    server_task_result_ptr result = std::move(*it);
    queue_results.erase(it);
    return result;
}

void server_response::send(server_task_result_ptr && result) {
    if (waiting_task_ids.count(result->id) > 0) {
        queue_results.push_back(std::move(result));
    }
}

void server_response_reader::post_tasks(std::vector<server_task> && tasks, const common_chat_session & session, bool front) {
    id_tasks = server_task::get_list_id(tasks);
    size_t index = 0;
    for (auto & task : tasks) {
        task.index = index++;
        states.push_back(task_result_state(session));
        for (auto & child : task.child_tasks) {
            child.index = index++;
            states.push_back(task_result_state(session));
        }
    }
    queue_results.add_waiting_task_ids(id_tasks);
    queue_tasks.post(std::move(tasks), front);
}

bool server_response_reader::has_next() const {
    return !cancelled && received_count < id_tasks.size();
}

server_task_result_ptr server_response_reader::next(const std::function<bool()> & /*should_stop*/) {
    server_task_result_ptr result = queue_results.recv_with_timeout(id_tasks, 0);
    if (!result) {
        return nullptr;
    }
    if (result->is_error()) {
        stop();
        return result;
    }
    if (result->index < states.size()) {
        result->update(states[result->index]);
    }
    if (result->is_stop()) {
        received_count++;
    }
    return result;
}

void server_response_reader::stop() {
    queue_results.remove_waiting_task_ids(id_tasks);
    if (!has_next()) {
        return;
    }
    cancelled = true;
    std::vector<server_task> tasks;
    for (const int id_task : id_tasks) {
        server_task task(SERVER_TASK_TYPE_CANCEL);
        task.id_target = id_task;
        tasks.push_back(std::move(task));
    }
    queue_tasks.post(std::move(tasks), true);
}
