locals {
  # What every machine gets, whatever it is for.
  scopes = ["https://www.googleapis.com/auth/cloud-platform"]
}

resource "google_container_node_pool" "general" {
  project  = var.project_id
  name     = "general"
  cluster  = var.cluster_id
  location = var.region

  initial_node_count = var.general.min_nodes

  autoscaling {
    min_node_count  = var.general.min_nodes
    max_node_count  = var.general.max_nodes
    location_policy = "BALANCED"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  upgrade_settings {
    strategy        = "SURGE"
    max_surge       = 1
    max_unavailable = 0
  }

  node_config {
    machine_type      = var.general.machine_type
    disk_size_gb      = var.general.disk_size_gb
    disk_type         = "pd-balanced"
    image_type        = "COS_CONTAINERD"
    boot_disk_kms_key = var.disk_key_id
    service_account   = var.node_service_account
    oauth_scopes      = local.scopes
    resource_labels   = var.labels

    labels = {
      "strongroom.dev/class" = "general"
    }

    gcfs_config {
      enabled = true
    }

    gvnic {
      enabled = true
    }

    kubelet_config {
      insecure_kubelet_readonly_port_enabled = "FALSE"
    }

    metadata = {
      disable-legacy-endpoints = "true"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  lifecycle {
    ignore_changes = [initial_node_count]
  }
}

resource "google_container_node_pool" "gpu" {
  for_each = var.gpu_pools

  project        = var.project_id
  name           = each.key
  cluster        = var.cluster_id
  location       = var.region
  node_locations = length(each.value.zones) > 0 ? each.value.zones : null

  initial_node_count = 0

  # Over all zones, and where there is room: GPUs are short, and a balance would wait for them.
  autoscaling {
    total_min_node_count = each.value.min_nodes
    total_max_node_count = each.value.max_nodes
    location_policy      = "ANY"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  # A surge needs another GPU, which the quota may not have: by default a machine is drained
  # first. The node puts its jobs back into the queue then.
  upgrade_settings {
    strategy        = "SURGE"
    max_surge       = each.value.surge_max
    max_unavailable = each.value.unavailable_max
  }

  node_config {
    machine_type      = each.value.machine_type
    spot              = each.value.spot
    disk_size_gb      = each.value.disk_size_gb
    disk_type         = each.value.disk_type
    image_type        = "COS_CONTAINERD"
    boot_disk_kms_key = var.disk_key_id
    service_account   = var.node_service_account
    oauth_scopes      = local.scopes
    resource_labels   = merge(var.labels, { pool = each.key })

    labels = merge(each.value.labels, {
      "strongroom.dev/class" = "gpu"
      "strongroom.dev/pool"  = each.key
    })

    guest_accelerator {
      type               = each.value.accelerator_type
      count              = each.value.accelerator_count
      gpu_partition_size = each.value.mig_partition

      gpu_driver_installation_config {
        gpu_driver_version = each.value.driver_version
      }

      dynamic "gpu_sharing_config" {
        for_each = each.value.time_sharing_clients[*]

        content {
          gpu_sharing_strategy       = "TIME_SHARING"
          max_shared_clients_per_gpu = gpu_sharing_config.value
        }
      }
    }

    # Only nodes of this pool come here; GKE adds the taint nvidia.com/gpu itself.
    taint {
      key    = "strongroom.dev/pool"
      value  = each.key
      effect = "NO_SCHEDULE"
    }

    # Ciphertext that was fetched lies here: gone with the machine, as it may be.
    dynamic "ephemeral_storage_local_ssd_config" {
      for_each = each.value.local_ssd_count > 0 ? [each.value.local_ssd_count] : []

      content {
        local_ssd_count = ephemeral_storage_local_ssd_config.value
      }
    }

    gcfs_config {
      enabled = true
    }

    gvnic {
      enabled = true
    }

    kubelet_config {
      insecure_kubelet_readonly_port_enabled = "FALSE"
    }

    metadata = {
      disable-legacy-endpoints = "true"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  lifecycle {
    ignore_changes = [initial_node_count]
  }
}
